// The report of a run: decodes its columns and draws them. No library, no network; names are only ever set as text.
'use strict';
(async () => {
  const $ = (id) => document.getElementById(id);
  const NA = 65535;
  const SCALE = 65534;
  const ROW = 26;
  const CALLS = ['NA', 'non-virus', 'virus', 'uncertain'];
  const FRAMES = ['F1', 'F2', 'F3', 'R1', 'R2', 'R3'];
  const SVG = 'http://www.w3.org/2000/svg';
  const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

  // ---- data ----
  const decode = async () => {
    const packed = Uint8Array.from(atob($('data').textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
    const all = await new Response(stream).arrayBuffer();
    const length = new DataView(all).getUint32(0, true);
    const text = new TextDecoder();
    const header = JSON.parse(text.decode(new Uint8Array(all, 4, length)));
    const columns = {};
    for (const [name, [type, offset, bytes]] of Object.entries(header.arrays)) {
      const piece = all.slice(4 + length + offset, 4 + length + offset + bytes);
      columns[name] = type === 'text' ? (bytes ? text.decode(piece).split('\n') : []) : new TYPES[type](piece);
    }
    return [header.meta, columns];
  };
  const [meta, col] = await decode();
  const n = col.length.length;
  if (!col.name.length && n) col.name = [''];
  const virus = (i) => (col.virus[i] === NA ? NaN : col.virus[i] / SCALE);
  const nonvirus = (i) => (col.nonvirus[i] === NA ? NaN : col.nonvirus[i] / SCALE);
  const starts = (counts) => {
    const offsets = new Float64Array(n + 1);
    for (let i = 0; i < n; i++) offsets[i + 1] = offsets[i] + (col.has[i] ? counts[i] : 0);
    return offsets;
  };
  const chunkAt = starts(col.chunks);
  const fragmentAt = starts(col.fragments);

  // ---- text ----
  const whole = (x) => Math.round(x).toLocaleString('en');
  const score = (x) => (Number.isNaN(x) ? 'NA' : x.toFixed(3));
  const small = (x) => (x > 0 && x < 0.001 ? x.toExponential(1) : score(x));
  const bases = (x) => (x < 10000 ? `${whole(x)} bp` : x < 1e6 ? `${(x / 1e3).toFixed(1)} kb` : `${(x / 1e6).toFixed(1)} Mb`);
  const short = (x) => (x < 1e4 ? whole(x) : x < 1e6 ? `${(x / 1e3).toFixed(1)}k` : `${(x / 1e6).toFixed(1)}M`);
  const percent = (a, b) => (b ? `${((100 * a) / b).toFixed(1)} %` : '–');
  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const shape = (tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ---- threshold ----
  const METRICS = { // `at`: the typed threshold as the columns hold numbers
    call: { label: 'as called', value: (i) => (col.call[i] === 2 ? 1 : 0), most: 1, first: 1, step: 1 },
    virus_score: { label: 'virus_score at least', value: virus, at: (t) => Math.ceil(t * SCALE - 0.5) / SCALE, most: 1, first: 0.5, step: 0.001 },
    margin: { label: 'margin at least', value: (i) => virus(i) - nonvirus(i), least: -1, most: 1, first: 0, step: 0.002 },
  };
  if (col.probability) METRICS.probability = { label: 'probability at least', value: (i) => col.probability[i], at: Math.fround, most: 1, first: 0.5, step: 0.001 };
  if (col.q_value) METRICS.q_value = { label: 'q_value at most', value: (i) => -col.q_value[i], at: (t) => -Math.fround(t), least: 0, most: 1, first: 0.05, step: 0.001 };
  let metric = METRICS.call;
  let threshold = 1;
  const isVirus = (i) => metric.value(i) >= threshold; // NaN is not
  let order = [];
  let sortBy = 'virus_score';
  let descending = true;
  let chosen = -1;

  const mostFalse = (which) => { // calibration/bound.py, false_within: at every border the envelope and what lies above
    const p = which.map((i) => col.p_value[i]).filter((x) => !Number.isNaN(x)).sort((a, b) => a - b);
    let below = 0;
    let least = p.length;
    meta.borders.forEach((border, b) => {
      while (below < p.length && p[below] <= border) below++;
      least = Math.min(least, meta.envelope[b] + p.length - below);
    });
    return least + which.length - p.length;
  };
  const sentence = () => {
    const which = [];
    let count = 0;
    let length = 0;
    let falseOnes = 0;
    let unknown = 0;
    for (let i = 0; i < n; i++) {
      if (!isVirus(i)) continue;
      count++;
      which.push(i);
      length += col.length[i];
      if (col.probability && Number.isNaN(col.probability[i])) unknown++;
      else if (col.probability) falseOnes += 1 - col.probability[i];
    }
    const at = metric === METRICS.call ? 'as called' : `with ${metric.label} ${$('value').textContent}`;
    const of = n < meta.sequences ? ` (of the ${whole(n)} in this report; ${whole(meta.virus)} of all are called virus)` : '';
    const most = meta.envelope && col.p_value ? mostFalse(which) : metric === METRICS.call ? meta.most_false : null;
    const bound = most === null ? '' : `, at most ${whole(most)} with ${meta.confidence} confidence`;
    const expected = col.probability ? `expected false among them: ${falseOnes.toFixed(1)}${unknown ? ` (without ${whole(unknown)} that have no probability)` : ''}${bound}` : `how many of them are false is not known: ${meta.calibrated ? 'no sequence has a probability' : 'the model has no calibration'}`;
    $('sentence').textContent = !meta.classified ? `${whole(meta.sequences)} sequences, none of which was classified.` : `${whole(count)} of ${whole(meta.sequences)} sequences are virus, ${at}${of}; ${expected}.`;
    $('count').textContent = `${whole(count)} sequences (${percent(count, n)}), ${bases(length)}`;
  };

  // ---- table ----
  const flag = (i) => (col.flags ? meta.flags[col.flags[i]] : '');
  const words = (i) => flag(i).split(',').map((word) => (Object.hasOwn(meta.words, word) ? meta.words[word] : word)).join('; ');
  const COLUMNS = [
    ['name', 'name', (i) => col.name[i], (i) => col.name[i]],
    ['length', 'length', (i) => whole(col.length[i]), (i) => col.length[i]],
    ['virus_score', 'virus', (i) => score(virus(i)), virus],
    ['nonvirus_score', 'non-virus', (i) => score(nonvirus(i)), nonvirus],
    ...['probability', 'q_value', 'p_value'].filter((name) => col[name]).map((name) => [name, name.replace('_value', ''), (i) => small(col[name][i]), (i) => col[name][i]]),
    ['call', 'call', (i) => CALLS[col.call[i]], (i) => col.call[i]],
    ['chunks', 'virus / scored chunks', (i) => `${whole(col.nvirus[i])} / ${whole(col.scored[i])}`, (i) => col.nvirus[i] / col.scored[i]],
    ['status', 'status', (i) => meta.statuses[col.status[i]], (i) => col.status[i]],
    ['flags', 'flags', flag, flag],
    ['source', 'file', (i) => meta.sources[col.source[i]].name, (i) => col.source[i]],
    ['description', 'description', (i) => (col.description.length ? col.description[i] : ''), (i) => col.description[i] || ''],
  ];
  if (!col.flags) COLUMNS.splice(COLUMNS.findIndex(([name]) => name === 'flags'), 1);
  const says = { source: meta.sources.length > 1, description: col.description.some(Boolean) };
  const SHOWN = COLUMNS.filter(([name]) => says[name] !== false); // what is saved has all of them
  const select = () => {
    const wanted = $('search').value.toLowerCase();
    const call = $('filter').value;
    const file = Number($('file').value);
    const keep = [];
    for (let i = 0; i < n; i++) {
      if (file >= 0 && col.source[i] !== file) continue;
      if (call === 'unflagged') {
        if (flag(i)) continue;
      } else if (call === 'threshold' ? !isVirus(i) : call !== 'all' && CALLS[col.call[i]] !== call) continue;
      if (wanted && !`${col.name[i]} ${col.description[i] || ''}`.toLowerCase().includes(wanted)) continue;
      keep.push(i);
    }
    const value = COLUMNS.find(([name]) => name === sortBy)[3];
    const keys = new Map(keep.map((i) => [i, value(i)]));
    const sign = descending ? -1 : 1;
    keep.sort((a, b) => {
      const x = keys.get(a);
      const y = keys.get(b);
      if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b; // NaN last
      return (x < y ? -sign : x > y ? sign : 0) || a - b;
    });
    order = keep;
    $('shown').textContent = `${whole(order.length)} of ${whole(n)}`;
    $('space').style.height = `${order.length * ROW}px`;
    draw.rows();
  };
  const heading = () => {
    $('heading').replaceChildren(...SHOWN.map(([name, title]) => {
      const button = make('button', title + (name === sortBy ? (descending ? ' ↓' : ' ↑') : ''), `cell ${name}`);
      button.type = 'button';
      button.title = title;
      button.addEventListener('click', () => {
        descending = name === sortBy ? !descending : name !== 'name';
        sortBy = name;
        heading();
        select();
      });
      return button;
    }));
    const widths = { name: 180, length: 80, virus_score: 78, probability: 106, q_value: 76, p_value: 80, call: 100, chunks: 104, status: 70, flags: 115, source: 110, description: 180 };
    const grid = SHOWN.map(([name]) => `minmax(0, ${widths[name] || 96}fr)`).join(' ');
    document.documentElement.style.setProperty('--grid', grid);
  };
  const draw = {};
  draw.rows = () => {
    const view = $('table');
    const first = Math.max(0, Math.floor(view.scrollTop / ROW) - 5);
    const end = Math.min(order.length, first + Math.ceil(view.clientHeight / ROW) + 10);
    const rows = [];
    for (let k = first; k < end; k++) {
      const i = order[k];
      const row = make('div', undefined, `row${i === chosen ? ' chosen' : ''}${isVirus(i) ? ' virus' : ''}`);
      row.setAttribute('role', 'button');
      row.tabIndex = 0;
      row.dataset.index = i;
      row.style.top = `${k * ROW}px`;
      for (const [name, , text] of SHOWN) {
        const cell = make('span', text(i), `cell ${name}`);
        cell.title = cell.textContent;
        row.append(cell);
      }
      rows.push(row);
    }
    $('space').replaceChildren(...rows);
  };
  const open = (i) => {
    chosen = i;
    zoom = [0, col.length[i]];
    $('contig').hidden = false; // before it is drawn: what is hidden has no width
    draw.rows();
    draw.contig();
  };

  // ---- save and copy ----
  const save = (name, text) => {
    const link = make('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const tsv = () => [COLUMNS.map(([name]) => name), ...order.map((i) => COLUMNS.map(([, , text]) => text(i)))].map((row) => row.join('\t')).join('\n') + '\n';
  const bed = () => order.flatMap((i) => regions(i).map(([a, b, s]) => [col.name[i], a, b, 'virus', Math.round(1000 * s), '.'].join('\t'))).join('\n') + '\n';
  const fasta = async (file) => {
    const wanted = new Set(order.map((i) => col.name[i]));
    const zipped = file.name.endsWith('.gz');
    const stream = zipped ? file.stream().pipeThrough(new DecompressionStream('gzip')) : file.stream();
    const text = await new Response(stream).text();
    const kept = text.split(/^>/m).slice(1).filter((entry) => wanted.has(entry.split(/\s/, 1)[0]));
    $('told').textContent = `${whole(kept.length)} of ${whole(order.length)} sequences are in ${file.name}`;
    if (kept.length) save('selected.fna', kept.map((entry) => `>${entry}`).join(''));
  };
  const copy = async () => {
    const text = order.map((i) => col.name[i]).join('\n');
    try {
      await navigator.clipboard.writeText(text);
      $('told').textContent = `${whole(order.length)} names copied`;
    } catch {
      save('names.txt', text + '\n');
    }
  };

  // ---- one sequence ----
  const bounds = (length) => { // as vpdist cuts chunks: overlaps differ by at most one base, the larger ones first
    const size = meta.chunk_length;
    const count = Math.ceil(length / size);
    const surplus = count * size - length;
    const overlap = Math.floor(surplus / count);
    const larger = surplus - overlap * (count - 1);
    return Array.from({ length: count }, (_, k) => {
      const start = k * (size - overlap) - Math.min(k, larger);
      return [start, Math.min(length, start + size)];
    });
  };
  const chunksOf = (i) => {
    if (!col.has[i]) return [];
    let next = fragmentAt[i];
    return bounds(col.length[i]).slice(0, col.chunks[i]).map(([a, b], k) => {
      const mask = col.mask[chunkAt[i] + k];
      const frames = FRAMES.map((_, f) => (mask & (1 << f) ? col.score[next++] : -1));
      const scores = frames.filter((x) => x >= 0 && x < NA).map((x) => x / SCALE);
      const [most, least] = scores.length ? [Math.max(...scores), Math.min(...scores)] : [NaN, NaN];
      return { a, b, frames, virus: most, nonvirus: 1 - least, called: Boolean(mask & 64) };
    });
  };
  const regions = (i) => {
    const found = [];
    let run = null;
    for (const chunk of chunksOf(i)) {
      if (Number.isNaN(chunk.virus)) continue;
      if (!chunk.called) run = null;
      else if (run) [run[1], run[2], run[3]] = [chunk.b, run[2] + chunk.virus, run[3] + 1];
      else found.push((run = [chunk.a, chunk.b, chunk.virus, 1]));
    }
    return found.map(([a, b, sum, count]) => [a, b, sum / count]);
  };
  const canvas = (id, height) => {
    const element = $(id);
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(280, element.parentElement.clientWidth);
    [element.width, element.height] = [width * ratio, height * ratio];
    [element.style.width, element.style.height] = [`${width}px`, `${height}px`];
    const pen = element.getContext('2d');
    pen.scale(ratio, ratio);
    pen.font = '12px system-ui, sans-serif';
    pen.textBaseline = 'middle';
    return [pen, width, height];
  };
  const mix = (s) => { // non-virus blue to virus orange by way of grey
    const [from, to, t] = s < 0.5 ? [[0, 114, 178], [150, 150, 150], 2 * s] : [[150, 150, 150], [213, 94, 0], 2 * s - 1];
    return `rgb(${from.map((x, k) => Math.round(x + t * (to[k] - x))).join(',')})`;
  };
  const ticks = (a, b, most) => {
    const rough = (b - a) / most;
    const power = 10 ** Math.floor(Math.log10(rough || 1));
    const step = Math.max(1, power * [1, 2, 5, 10].find((m) => m * power >= rough));
    const list = [];
    for (let x = Math.ceil(a / step) * step; x <= b; x += step) list.push(x);
    return list;
  };
  let zoom = [0, 1];
  let boxes = [];
  const LEFT = 44;
  draw.contig = () => {
    const i = chosen;
    if (i < 0) return;
    const [pen, width, height] = canvas('contigs', 206);
    const chunks = chunksOf(i);
    const [a, b] = zoom;
    const x = (base) => LEFT + ((base - a) / (b - a || 1)) * (width - LEFT - 8);
    $('contigname').textContent = col.name[i];
    $('contigtold').textContent = `${bases(col.length[i])}, virus ${score(virus(i))}, non-virus ${score(nonvirus(i))}, called ${CALLS[col.call[i]]}` +
      (flag(i) ? `; flagged: ${words(i)}` : '') + (col.has[i] ? '' : '; its fragments are not in this report');
    boxes = [];
    pen.fillStyle = colour('--text');
    FRAMES.forEach((name, f) => pen.fillText(name, 8, 12 + 20 * f));
    pen.fillText('chunk', 4, 138);
    pen.fillText('region', 4, 166);
    const bar = (from, to, top, tall, value, told) => {
      const left = Math.max(LEFT, x(from));
      const wide = Math.max(1, Math.min(width - 8, x(to)) - left - 0.5);
      if (x(to) < LEFT || x(from) > width) return;
      pen.fillStyle = colour('--na');
      pen.fillRect(left, top, wide, tall);
      if (!Number.isNaN(value)) {
        pen.fillStyle = mix(value); // the height says it, too
        pen.fillRect(left, top + tall * (1 - value), wide, Math.max(1.5, tall * value));
      }
      boxes.push([left, top, left + wide, top + tall, told]);
    };
    chunks.forEach((chunk, k) => {
      const next = chunks[k + 1];
      const end = next ? Math.min(chunk.b, (chunk.b + next.a) / 2) : chunk.b; // overlaps are halved
      const start = k ? Math.max(chunk.a, (chunks[k - 1].b + chunk.a) / 2) : chunk.a;
      const place = `${whole(chunk.a + 1)}–${whole(chunk.b)}`;
      chunk.frames.forEach((value, f) => {
        if (value < 0) return;
        const s = value === NA ? NaN : value / SCALE;
        bar(start, end, 4 + 20 * f, 16, s, `${FRAMES[f]} ${place}: ${score(s)}`);
      });
      bar(start, end, 128, 20, chunk.virus, `chunk ${k + 1}, ${place}: virus ${score(chunk.virus)}, non-virus ${score(chunk.nonvirus)}`);
    });
    for (const [from, to, s] of regions(i)) bar(from, to, 160, 12, s, `region ${whole(from + 1)}–${whole(to)}: ${score(s)}`);
    pen.fillStyle = colour('--text');
    pen.textAlign = 'center';
    for (const base of ticks(a, b, width / 110)) {
      pen.fillRect(x(base), 178, 1, 5);
      pen.fillText(whole(base), Math.min(width - 24, Math.max(LEFT + 12, x(base))), 194);
    }
    $('contigs').setAttribute('aria-label', `${col.name[i]}: ${chunks.length} chunks, ${regions(i).length} regions; height ${height}`);
  };
  const scaled = (factor, at = 0.5) => {
    const [a, b] = zoom;
    const span = Math.min(col.length[chosen], Math.max(50, (b - a) * factor));
    const from = Math.max(0, Math.min(col.length[chosen] - span, a + (b - a - span) * at));
    zoom = [from, from + span];
    draw.contig();
  };

  // ---- pictures ----
  const inColumns = () => {
    $('classes').replaceChildren(...meta.classes.map(({ name, counts, total }) => {
      const figure = make('figure');
      figure.append(make('figcaption', `${name}: ${whole(total)}`));
      const most = Math.max(1, ...counts);
      const svg = shape('svg', { viewBox: '0 0 204 96', role: 'img', 'aria-label': `virus scores of ${name}` });
      counts.forEach((count, k) => {
        const tall = count ? Math.max(1, (70 * Math.log1p(count)) / Math.log1p(most)) : 0;
        const rect = shape('rect', { x: 2 + 10 * k, y: 74 - tall, width: 9, height: tall, fill: mix((k + 0.5) / counts.length) });
        rect.append(shape('title', {}, `${(k / counts.length).toFixed(2)}–${((k + 1) / counts.length).toFixed(2)}: ${whole(count)}`));
        svg.append(rect);
      });
      for (const [x, text, anchor] of [[2, '0', 'start'], [102, '0.5', 'middle'], [202, '1', 'end']]) svg.append(shape('text', { x, y: 90, 'text-anchor': anchor }, text));
      figure.append(svg);
      return figure;
    }));
  };
  const points = {};
  const scatter = (id, pairs, axes) => { // pairs: of x, y in 0..1 and the sequence
    const [pen, width, height] = canvas(id, 260);
    const place = ([x, y]) => [40 + x * (width - 52), 8 + (1 - y) * (height - 40)];
    points[id] = [];
    for (const side of [false, true]) {
      for (const pair of pairs) {
        if (isVirus(pair[2]) !== side) continue;
        const [x, y] = place(pair);
        pen.fillStyle = side ? colour('--virus') : colour('--other');
        pen.globalAlpha = pairs.length > 3000 ? 0.35 : 0.7;
        pen.beginPath(); // circles and squares: the shape says it, too
        if (side) pen.arc(x, y, 2.6, 0, 7);
        else pen.rect(x - 1.8, y - 1.8, 3.6, 3.6);
        pen.fill();
        points[id].push([x, y, pair[2]]);
      }
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colour('--text');
    for (const [x, y, text, align] of axes(place)) {
      pen.textAlign = align;
      pen.fillText(text, x, y);
    }
  };
  draw.pictures = () => {
    const scored = [];
    for (let i = 0; i < n; i++) if (col.virus[i] !== NA) scored.push(i);
    const logs = scored.map((i) => Math.log10(Math.max(1, col.length[i])));
    const least = logs.reduce((a, b) => Math.min(a, b), 9);
    const most = logs.reduce((a, b) => Math.max(a, b), 0);
    const span = most - least || 1;
    scatter('lengths', scored.map((i, k) => [(logs[k] - least) / span, virus(i), i]), (place) => [
      ...[0, 0.5, 1].map((y) => [34, place([0, y])[1], y.toFixed(1), 'right']),
      ...[0, 0.5, 1].map((x) => [place([x, 0])[0], 244, bases(10 ** (least + x * span)), ['left', 'center', 'right'][2 * x]]),
    ]);
    $('map').hidden = !col.mapi;
    $('maptold').textContent = meta.map;
    if (col.mapi) {
      const spread = Array.from(col.mapi, (i, k) => [col.mapx[k] / SCALE, col.mapy[k] / SCALE, i]);
      scatter('map', spread, (place) => [[place([0.5, 0])[0], 244, 'first component', 'center']]);
    }
  };
  const table = (id, titles, rows) => {
    const head = make('tr');
    head.append(...titles.map((title) => make('th', title)));
    $(id).replaceChildren(head, ...rows.map((cells) => {
      const row = make('tr');
      row.append(...cells.map((cell) => make('td', cell)));
      return row;
    }));
  };
  draw.run = () => {
    const { t, tokens, ranks } = meta.timeline;
    $('timeline').parentElement.hidden = t.length < 2;
    if (t.length >= 2) {
      const [pen, width, height] = canvas('timeline', 160);
      const rates = t.slice(1).map((end, k) => (tokens[k + 1] - tokens[k]) / Math.max(1e-3, end - t[k]));
      const most = Math.max(1, ...rates);
      const last = t[t.length - 1] || 1;
      pen.fillStyle = colour('--quiet');
      rates.forEach((rate, k) => {
        const x = 60 + (t[k] / last) * (width - 70);
        pen.fillRect(x, 8 + (1 - rate / most) * (height - 36), Math.max(1, ((t[k + 1] - t[k]) / last) * (width - 70) - 0.5), (rate / most) * (height - 36));
      });
      pen.fillStyle = colour('--text');
      pen.textAlign = 'left';
      pen.fillText(`${short(most)}/s`, 2, 14);
      pen.fillText('0 s', 60, height - 12);
      pen.textAlign = 'right';
      pen.fillText(`${whole(last)} s`, width - 10, height - 12);
    }
    $('rates').parentElement.hidden = t.length < 2 || meta.timeline.rates.length < 2;
    if (t.length >= 2 && meta.timeline.rates.length >= 2) {
      const { rates } = meta.timeline;
      const tall = Math.max(4, Math.min(18, 320 / rates.length));
      const [pen, width] = canvas('rates', Math.ceil(rates.length * tall) + 4);
      const last = t[t.length - 1] || 1;
      const speed = (row, k) => row.tokens[k] / Math.max(1e-3, t[k + 1] - t[k]);
      const most = Math.max(1, ...rates.flatMap((row) => row.tokens.map((_, k) => speed(row, k))));
      const every = Math.ceil(12 / tall);
      rates.forEach((row, r) => {
        pen.fillStyle = colour('--text');
        pen.textAlign = 'left';
        if (r % every === 0) pen.fillText(`rank ${row.rank}`, 2, r * tall + tall / 2);
        pen.fillStyle = colour('--quiet');
        row.tokens.forEach((_, k) => {
          const high = (tall - 1) * (speed(row, k) / most); // the height says it
          const x = 60 + (t[k] / last) * (width - 70);
          pen.fillRect(x, (r + 1) * tall - high, Math.max(1, ((t[k + 1] - t[k]) / last) * (width - 70)), high);
        });
      });
    }
    table('ranks', ['rank', 'tokens', 'of the mean', 'computing', 'writing', 'reading tokens'], ranks.map((r) => [r.rank, whole(r.tokens), percent(r.tokens, meta.timeline.mean), `${r.compute.toFixed(1)} s`, `${r.write.toFixed(1)} s`, `${r.load.toFixed(1)} s`]));
    table('stages', ['stage', 'seconds'], Object.entries(meta.seconds).map(([name, seconds]) => [name, seconds.toFixed(1)]));
  };

  // ---- page ----
  const later = (work) => {
    let frame = 0;
    return () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(work);
    };
  };
  const changed = later(() => {
    sentence();
    if ($('filter').value === 'threshold') select();
    else draw.rows();
    draw.pictures();
  });
  const setThreshold = () => {
    const typed = Number($('slider').value);
    threshold = metric.at ? metric.at(typed) : typed;
    $('value').textContent = metric === METRICS.call ? '' : typed.toFixed(3);
    changed();
  };
  const setMetric = (name) => {
    metric = METRICS[name];
    const slider = $('slider');
    [slider.min, slider.max, slider.step] = [metric.least ?? 0, metric.most, metric.step];
    slider.value = metric.first;
    slider.disabled = name === 'call';
    setThreshold();
  };
  for (const [name, { label }] of Object.entries(METRICS)) $('metric').append(Object.assign(make('option', label), { value: name }));
  meta.sources.forEach(({ name }, k) => $('file').append(Object.assign(make('option', name), { value: k })));
  $('metric').addEventListener('change', () => setMetric($('metric').value));
  $('slider').addEventListener('input', setThreshold);
  for (const id of ['filter', 'file']) $(id).addEventListener('change', select);
  $('search').addEventListener('input', later(select));
  $('table').addEventListener('scroll', later(draw.rows));
  $('space').addEventListener('click', (event) => {
    const row = event.target.closest('.row');
    if (row) open(Number(row.dataset.index));
  });
  $('space').addEventListener('keydown', (event) => {
    if ((event.key === 'Enter' || event.key === ' ') && event.target.dataset.index) {
      event.preventDefault();
      open(Number(event.target.dataset.index));
    }
  });
  for (const id of ['lengths', 'map']) {
    $(id).addEventListener('click', (event) => {
      const near = ([x, y]) => (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      const all = points[id] || [];
      const best = all.reduce((found, point) => (near(point) < near(found) ? point : found), all[0]);
      if (best && near(best) < 400) {
        open(best[2]);
        $('contig').scrollIntoView();
      }
    });
  }
  $('contigs').addEventListener('mousemove', (event) => {
    const hit = boxes.find(([a, b, c, d]) => event.offsetX >= a && event.offsetX <= c && event.offsetY >= b && event.offsetY <= d);
    $('hint').textContent = hit ? hit[4] : '';
  });
  $('contigs').addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.shiftKey) return; // the page scrolls
    event.preventDefault();
    scaled(event.deltaY + event.deltaX > 0 ? 1.25 : 0.8, (event.offsetX - LEFT) / ($('contigs').clientWidth - LEFT));
  }, { passive: false });
  $('in').addEventListener('click', () => scaled(0.5));
  $('out').addEventListener('click', () => scaled(2));
  for (const [id, way] of [['left', -1], ['right', 1]]) {
    $(id).addEventListener('click', () => {
      const step = way * Math.min((zoom[1] - zoom[0]) / 2, way < 0 ? zoom[0] : col.length[chosen] - zoom[1]);
      zoom = zoom.map((base) => base + step);
      draw.contig();
    });
  }
  $('close').addEventListener('click', () => {
    $('contig').hidden = true;
    chosen = -1;
    draw.rows();
  });
  $('copy').addEventListener('click', copy);
  $('names').addEventListener('click', () => save('names.txt', order.map((i) => col.name[i] + '\n').join('')));
  $('tsv').addEventListener('click', () => save('selected.tsv', tsv()));
  $('bed').addEventListener('click', () => save('selected.bed', bed()));
  $('fasta').addEventListener('click', () => $('fna').click());
  $('fna').addEventListener('change', () => $('fna').files.length && fasta($('fna').files[0]));
  const redraw = later(() => {
    draw.rows();
    draw.contig();
    draw.pictures();
    draw.run();
  });
  window.addEventListener('resize', redraw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  for (const text of meta.warnings) $('warnings').append(make('li', text));
  table('files', ['file', 'sequences', 'bases', 'scored', 'virus', 'share of scored'], meta.sources.map((s) => [s.name, whole(s.sequences), whole(s.bases), whole(s.scored), whole(s.virus), percent(s.virus, s.scored)]));
  $('methods').replaceChildren(...meta.methods.map((text) => make('p', text)));
  heading();
  sentence();
  select();
  inColumns();
  draw.pictures();
  draw.run();
  setMetric('call');
  document.body.dataset.ready = String(n);
})().catch((error) => {
  const told = document.getElementById('sentence');
  told.textContent = `This report cannot be drawn by this browser: ${error.message}. It needs DecompressionStream (browsers from 2023 on).`;
  document.body.dataset.failed = 'yes';
  throw error;
});

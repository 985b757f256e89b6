process VPDIST_PREDICT {
    tag "$meta.id"
    label 'process_high'

    conda "${moduleDir}/environment.yml"
    container "vpdist:0.1.0"

    input:
    tuple val(meta), path(sequences)
    path model

    output:
    tuple val(meta), path("${prefix}/sequences.tsv"), emit: sequences
    tuple val(meta), path("${prefix}/chunks.tsv")   , emit: chunks
    tuple val(meta), path("${prefix}/fragments.tsv"), emit: fragments
    tuple val(meta), path("${prefix}/virus.fna.gz") , emit: virus
    tuple val(meta), path("${prefix}/virus.tsv")    , emit: calls
    tuple val(meta), path("${prefix}/summary.tsv")  , emit: summary
    tuple val(meta), path("${prefix}/report.html")  , emit: report
    path "${prefix}_vpdist_mqc.json"                , emit: multiqc
    path "versions.yml"                             , emit: software_versions
    tuple val("${task.process}"), val('vpdist'), eval("vpdist --version | sed -n 's/^vpdist //p'"), topic: versions, emit: versions_vpdist

    when:
    task.ext.when == null || task.ext.when

    script:
    def args     = task.ext.args ?: ''
    prefix       = task.ext.prefix ?: "${meta.id}"
    def use      = model ? "--model ${model}" : '--model mini --offline'
    def ranks    = task.accelerator ? task.accelerator.request : task.cpus
    def device   = task.accelerator ? 'cuda' : 'cpu'
    """
    vpdist predict \\
        ${sequences} \\
        --output ${prefix} \\
        ${use} \\
        --device ${device} \\
        --nproc ${ranks} \\
        --progress log \\
        ${args}

    vpdist report ${prefix} --multiqc
    cp ${prefix}/vpdist_mqc.json ${prefix}_vpdist_mqc.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        vpdist: \$(vpdist --version | sed -n 's/^vpdist //p')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}
    touch ${prefix}/sequences.tsv ${prefix}/chunks.tsv ${prefix}/fragments.tsv
    touch ${prefix}/virus.tsv ${prefix}/summary.tsv ${prefix}/report.html
    echo '' | gzip > ${prefix}/virus.fna.gz
    echo '{}' > ${prefix}_vpdist_mqc.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        vpdist: \$(vpdist --version | sed -n 's/^vpdist //p')
    END_VERSIONS
    """
}

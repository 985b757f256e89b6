version 1.1

## vpdist on the sequences of one sample: docs/workflows.md.

workflow vpdist {
    meta {
        description: "Call every sequence of each sample virus or not"
    }

    parameter_meta {
        samples: "FASTA or FASTQ files, plain or compressed, one for each sample"
        model: "A name that `vpdist models` lists, or an id of the hub"
        model_folder: "A tar of a model's folder, instead of a name"
        cpu: "Cores of a task, which are its ranks where it has no GPU"
        gpus: "GPUs of a task"
        memory_gb: "Memory of a task"
        docker: "The image that workflows/container/Dockerfile makes"
    }

    input {
        Array[File]+ samples
        String model = "mini"
        File? model_folder
        Int cpu = 2
        Int gpus = 0
        Int memory_gb = 8
        String docker = "vpdist:0.1.0"
    }

    scatter (sample in samples) {
        call predict {
            input:
                sequences = sample,
                model = model,
                model_folder = model_folder,
                cpu = cpu,
                gpus = gpus,
                memory_gb = memory_gb,
                docker = docker,
        }
    }

    output {
        Array[File] sequences_tsv = predict.sequences_tsv
        Array[File] virus_fasta = predict.virus_fasta
        Array[File] reports = predict.report
        Array[File] multiqc = predict.multiqc
        String vpdist_version = predict.vpdist_version[0]
    }
}

task predict {
    meta {
        description: "vpdist predict, with a report and a section for MultiQC"
    }

    parameter_meta {
        sequences: "FASTA or FASTQ, plain or compressed"
        model: "A name that `vpdist models` lists, or an id of the hub"
        model_folder: "A tar of a model's folder, instead of a name"
        cpu: "Cores, which are the ranks where there is no GPU"
        gpus: "GPUs, which are the ranks where there are any"
        memory_gb: "Memory"
        docker: "The image that workflows/container/Dockerfile makes"
    }

    input {
        File sequences
        String model
        File? model_folder
        Int cpu
        Int gpus
        Int memory_gb
        String docker
    }

    Int ranks = if gpus > 0 then gpus else cpu
    String device = if gpus > 0 then "cuda" else "cpu"
    Int disk_gb = 10 + 6 * ceil(size(sequences, "GiB"))

    command <<<
        set -euo pipefail
        model='~{model}'
        folder='~{select_first([model_folder, ""])}'
        if [ -n "$folder" ]; then
            mkdir model
            tar -xf "$folder" -C model --strip-components=1
            model=./model
        fi
        vpdist --version | sed -n 's/^vpdist //p' > version.txt
        vpdist predict '~{sequences}' --output run --model "$model" --device ~{device} --nproc ~{ranks} --progress log
        vpdist report run --multiqc
    >>>

    output {
        File sequences_tsv = "run/sequences.tsv"
        File chunks_tsv = "run/chunks.tsv"
        File fragments_tsv = "run/fragments.tsv"
        File virus_fasta = "run/virus.fna.gz"
        File summary_tsv = "run/summary.tsv"
        File report = "run/report.html"
        File multiqc = "run/vpdist_mqc.json"
        String vpdist_version = read_string("version.txt")
    }

    runtime {
        docker: docker
        cpu: cpu
        memory: "~{memory_gb} GiB"
        disks: "local-disk ~{disk_gb} SSD"
        gpu: gpus > 0
        gpuCount: gpus
    }
}

//! Launchers on a command line: torchrun under all its names, and `accelerate launch`. Their flags
//! beat the variables that Convoke fills in, so they are read: some fix the local world size, others
//! would tear a gang apart.

/// A program that starts the processes of a node by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Torchrun,
    Accelerate,
}

/// One launcher on a command line, with the flags before its script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) program: Program,
    /// By full name in torchrun's newer spelling (`nproc-per-node`); the last one of a name counts.
    flags: Vec<(String, Option<String>)>,
}

const TORCHRUN: [&str; 2] = ["torch.distributed.run", "torch.distributed.launch"];
const ACCELERATE: [&str; 2] = ["accelerate.commands.launch", "accelerate.commands.accelerate_cli"];

/// The flags that are read here: the parsers take any clear beginning of a flag's name for it.
const READ: [&str; 12] = [
    "nproc-per-node",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "rdzv-endpoint",
    "standalone",
    "num-processes",
    "num-machines",
    "machine-rank",
    "main-process-ip",
    "main-process-port",
];

/// Flags without a value; every other one takes the next word.
const SWITCHES: [&str; 29] = [
    "cpu",
    "debug",
    "downcast-bf16",
    "dynamo-use-dynamic",
    "dynamo-use-fullgraph",
    "dynamo-use-regional-compilation",
    "enable-cpu-affinity",
    "fp8-use-autocast-during-eval",
    "h",
    "help",
    "m",
    "module",
    "multi-gpu",
    "no-python",
    "no-tpu-cluster",
    "q",
    "quiet",
    "run-path",
    "same-network",
    "standalone",
    "tpu",
    "tpu-cluster",
    "tpu-use-sudo",
    "use-deepspeed",
    "use-env",
    "use-fsdp",
    "use-megatron-lm",
    "use-parallelism-config",
    "virtual-local-rank",
];

impl Launch {
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| name == flag)
    }

    pub(super) fn value(&self, flag: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(name, _)| name == flag)?.1.as_deref()
    }

    /// A flag's value that is the same wherever the line runs: `$NODE_RANK` in a shell's script is
    /// each task's own.
    pub(super) fn fixed(&self, flag: &str) -> Option<&str> {
        self.value(flag).filter(|value| !value.contains(['$', '`']))
    }
}

/// Finds the launchers in an argument vector, or in the script that a shell in it runs.
pub(super) fn find(argv: &[String]) -> Vec<Launch> {
    let launches = launches(argv);
    if !launches.is_empty() {
        return launches;
    }
    // One level: a shell within a shell's script is not looked into.
    script(argv).map(|words| self::launches(&words)).unwrap_or_default()
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or_default()
}

/// The words of the script that a shell in `argv` is given with `-c`.
fn script(argv: &[String]) -> Option<Vec<String>> {
    let shell = argv.iter().position(|w| ["sh", "bash", "dash", "ash", "zsh"].contains(&base(w)))?;
    let after = &argv[shell + 1..];
    let flag = after.iter().position(|w| w.starts_with('-') && !w.starts_with("--") && w.ends_with('c'))?;
    let script = after.get(flag + 1)?;
    let mut words = Vec::new();
    for word in shlex::split(script)? {
        // `a;b`, `a&&b`, `(a`: a shell ends a word there. It does not where that is quoted, but then
        // it is no launcher and no flag of one, so that it does no harm to cut it.
        let parts = word.split(';').flat_map(|part| part.split("&&"));
        words.extend(parts.map(|w| w.trim_start_matches('(').to_owned()).filter(|w| !w.is_empty()));
    }
    Some(words)
}

fn launches(words: &[String]) -> Vec<Launch> {
    (0..words.len()).filter_map(|i| launch(&words[i..])).collect()
}

/// The launcher that `words` start with.
fn launch(words: &[String]) -> Option<Launch> {
    let word = words.first()?;
    let next = words.get(1).map_or("", String::as_str);
    let (program, taken) = match base(word) {
        "torchrun" => (Program::Torchrun, 1),
        "accelerate-launch" => (Program::Accelerate, 1),
        "accelerate" if next == "launch" => (Program::Accelerate, 2),
        "-m" if TORCHRUN.contains(&next) => (Program::Torchrun, 2),
        "-m" if next == ACCELERATE[0] => (Program::Accelerate, 2),
        "-m" if next == ACCELERATE[1] && words.get(2).is_some_and(|w| w == "launch") => {
            (Program::Accelerate, 3)
        }
        glued if TORCHRUN.iter().any(|module| glued.strip_prefix("-m") == Some(module)) => {
            (Program::Torchrun, 1)
        }
        _ => return None,
    };
    Some(Launch { program, flags: flags(&words[taken..]) })
}

/// A launcher's own flags, up to the script it starts.
fn flags(words: &[String]) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else { break };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, mut value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = full(&name.replace('_', "-"));
        if value.is_none() && !SWITCHES.contains(&name.as_str()) {
            value = words.next().cloned();
        }
        found.push((name, value));
    }
    found
}

/// A flag's whole name, from a beginning that fits one flag only.
fn full(name: &str) -> String {
    let mut fitting = READ.iter().filter(|flag| flag.starts_with(name));
    match (fitting.next(), fitting.next()) {
        // Two letters may begin a flag that is not read here.
        (Some(flag), None) if name.len() > 2 => (*flag).to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(line: &str) -> Vec<Launch> {
        find(&shlex::split(line).unwrap())
    }

    #[test]
    fn flags_are_read_in_both_spellings_and_up_to_the_script() {
        for line in [
            "torchrun --nproc_per_node=4 --rdzv_backend c10d train.py --nnodes=1",
            "/opt/bin/torchrun --max-restarts 0 --nproc-per-node 4 -m train --nnodes=1",
            "torchrun --nproc 4 --virtual-local-rank train.py --nnodes=1",
            "python -u -m torch.distributed.run --nproc_per_node 4 --log_dir x train.py",
            "python -mtorch.distributed.launch --use_env --nproc_per_node=4 train.py --standalone",
            "bash -lc 'pip install x && torchrun --nproc_per_node=4 train.py --standalone'",
            "bash -euo pipefail -c 'cd /x;torchrun --master_port=${P} --nproc_per_node=4 t.py --standalone'",
            "sh -c '(cd /x&&torchrun --nproc_per_node=4 train.py --standalone)'",
            "sh -c '# it is one node\nset -e\nexec torchrun \\\n  --nproc_per_node=4 \\\n  train.py --nnodes=1\n'",
        ] {
            let [found] = &on(line)[..] else { panic!("not one launcher in {line}") };
            assert_eq!(found.program, Program::Torchrun, "{line}");
            assert_eq!(found.value("nproc-per-node"), Some("4"), "{line}");
            assert_eq!((found.has("standalone"), found.value("nnodes")), (false, None), "{line}");
        }
    }

    #[test]
    fn accelerate_is_found_under_all_its_names() {
        for line in [
            "accelerate launch --multi_gpu --num_machines 2 --mixed_precision fp16 train.py --num_machines 3",
            "accelerate-launch --use-fsdp --num-machines=2 train.py",
            "python -m accelerate.commands.launch --num_machines 2 train.py",
            "bash -c 'accelerate launch --quiet --num_machines=2 train.py'",
        ] {
            let [found] = &on(line)[..] else { panic!("not one launcher in {line}") };
            assert_eq!(
                (found.program, found.value("num-machines")),
                (Program::Accelerate, Some("2")),
                "{line}"
            );
        }
    }

    #[test]
    fn other_programs_are_left_alone() {
        for line in [
            "python train.py --nproc_per_node=4",
            "sh -c 'echo torchrunner'",
            "accelerate config",
            "sh -c \"echo it's\"",
            "",
            "sh",
            "sh -c",
        ] {
            assert_eq!(on(line), [], "{line}");
        }
    }

    #[test]
    fn every_launcher_of_a_script_is_seen_and_a_variable_is_not_fixed() {
        let found = on("sh -c 'torchrun --standalone a.py && torchrun --nnodes=$N --node_rank=1 b.py'");
        assert!(found[0].has("standalone"));
        assert_eq!((found[1].fixed("nnodes"), found[1].fixed("node-rank")), (None, Some("1")));
        assert_eq!(found.len(), 2);
    }
}

//! torchrun on a command line. Its flags beat the variables that Convoke fills in, so they are
//! read: one fixes the local world size, others would tear a gang apart.

/// What a torchrun command line says about the world; flags with values as written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Torchrun {
    pub(super) standalone: bool,
    pub(super) nproc_per_node: Option<String>,
    pub(super) nnodes: Option<String>,
    pub(super) node_rank: Option<String>,
    pub(super) master_addr: Option<String>,
    pub(super) master_port: Option<String>,
    pub(super) rdzv_endpoint: Option<String>,
}

/// Finds torchrun in an argument vector, or in the script that a shell in it runs.
pub(super) fn find(argv: &[String]) -> Option<Torchrun> {
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(i) = argv.iter().position(|w| base(w) == "torchrun") {
        return Some(flags(&argv[i + 1..]));
    }
    let modules = ["torch.distributed.run", "torch.distributed.launch"];
    if let Some(i) = argv.windows(2).position(|w| w[0] == "-m" && modules.contains(&w[1].as_str())) {
        return Some(flags(&argv[i + 2..]));
    }
    let shell = argv.iter().position(|w| ["sh", "bash", "dash", "zsh"].contains(&base(w).as_str()))?;
    let after = &argv[shell + 1..];
    let flag = after.iter().position(|w| w.starts_with('-') && !w.starts_with("--") && w.ends_with('c'))?;
    let words = shlex::split(after.get(flag + 1)?)?;
    // One level: a shell within a shell's script is not looked into.
    let inner = words.iter().position(|w| base(w) == "torchrun").map(|i| i + 1);
    let module = || words.windows(2).position(|w| w[0] == "-m" && modules.contains(&w[1].as_str()));
    inner.or_else(|| module().map(|i| i + 2)).map(|i| flags(&words[i..]))
}

/// torchrun's own flags, up to the script it starts.
fn flags(words: &[String]) -> Torchrun {
    let mut found = Torchrun::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else { break };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.replace('_', "-");
        match name.as_str() {
            "standalone" => found.standalone = true,
            "m" | "module" | "no-python" | "run-path" | "use-env" | "help" | "h" => {}
            _ => {
                let value = value.or_else(|| words.next().cloned());
                match name.as_str() {
                    "nproc-per-node" => found.nproc_per_node = value,
                    "nnodes" => found.nnodes = value,
                    "node-rank" => found.node_rank = value,
                    "master-addr" => found.master_addr = value,
                    "master-port" => found.master_port = value,
                    "rdzv-endpoint" => found.rdzv_endpoint = value,
                    _ => {}
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(line: &str) -> Option<Torchrun> {
        find(&shlex::split(line).unwrap())
    }

    #[test]
    fn flags_are_read_in_both_spellings_and_up_to_the_script() {
        for line in [
            "torchrun --nproc_per_node=4 --rdzv_backend c10d train.py --nnodes=1",
            "/opt/bin/torchrun --max-restarts 0 --nproc-per-node 4 -m train --nnodes=1",
            "python -u -m torch.distributed.run --nproc_per_node 4 --log_dir x train.py",
            "bash -lc 'pip install x && torchrun --nproc_per_node=4 train.py --standalone'",
        ] {
            let found = on(line).unwrap_or_else(|| panic!("no torchrun in {line}"));
            assert_eq!(found.nproc_per_node.as_deref(), Some("4"), "{line}");
            assert_eq!((found.standalone, found.nnodes), (false, None), "{line}");
        }
    }

    #[test]
    fn other_programs_are_left_alone() {
        for line in ["python train.py --nproc_per_node=4", "sh -c 'echo torchrunner'", "", "sh", "sh -c"] {
            assert_eq!(on(line), None, "{line}");
        }
    }

    #[test]
    fn standalone_and_one_node_are_seen() {
        let found = on("torchrun --standalone --nnodes=1 --master_addr 10.0.0.1 x.py").unwrap();
        assert!(found.standalone);
        assert_eq!(found.nnodes.as_deref(), Some("1"));
        assert_eq!(found.master_addr.as_deref(), Some("10.0.0.1"));
    }
}

//! Files, directories and disks of the task itself.

use crate::rule::On::{Failure, Output};
use crate::rule::Rule;
use crate::rule::When::Always;

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "NoSpaceLeft",
        on: Failure(&[
            r"No space left on device(?:: (?P<path>.+))?",
            r"PytorchStreamWriter failed writing file",
        ]),
        when: Always,
        summary: "the disk that it wrote to is full[: {path}][ on {node}]",
        advice: "write to a larger disk: mount one under `volumes`, or keep fewer checkpoints \
                 (`x-convoke.checkpoint.keep`)",
        key: Some("volumes"),
    },
    Rule {
        cause: "ScriptNotFound",
        on: Output(&[r"can't open file '(?P<path>[^']+)': \[Errno 2\]"]),
        when: Always,
        summary: "the script {path} is not there",
        advice: "correct its path in `command`, or `working_dir`, or mount it under `volumes`",
        key: Some("command"),
    },
    Rule {
        cause: "InterpreterNotFound",
        on: Output(&[
            r"^exec (?P<program>/[^ :]+): no such file or directory",
            r"(?P<program>[^ :]+): cannot execute: required file not found",
        ]),
        when: Always,
        summary: "{program} is there, but not the interpreter that its first line names (or the line ends \
                  as on Windows)",
        advice: "name the interpreter in `command` (as `sh run.sh`), and save the script with Unix line \
                 ends",
        key: Some("command"),
    },
    Rule {
        cause: "WrongFormat",
        on: Output(&[r"^exec (?P<program>[^ :]+): exec format error"]),
        when: Always,
        summary: "{program} is no program of this machine's kind: another processor's, or a script without \
                  `#!`",
        advice: "name the interpreter in `command` (as `sh run.sh`), or build program and `image` for this \
                 processor",
        key: Some("command"),
    },
    Rule {
        cause: "FileNotFound",
        on: Failure(&[r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<path>[^']*)'"]),
        when: Always,
        summary: "the program looked for {path} and it is not there[ ({place})]",
        advice: "mount it under `volumes` (a relative path travels from your directory), or correct the \
                 path",
        key: Some("volumes"),
    },
    Rule {
        cause: "PermissionDenied",
        on: Failure(&[r"PermissionError: \[Errno 13\] Permission denied: '(?P<path>[^']*)'"]),
        when: Always,
        summary: "the program may not open {path}[ ({place})]",
        advice: "run it as the owner with `user`, or write below a directory that is mounted under \
                 `volumes`",
        key: Some("user"),
    },
    Rule {
        cause: "ReadOnly",
        on: Failure(&[r"\[Errno 30\] Read-only file system: '(?P<path>[^']*)'"]),
        when: Always,
        summary: "the program wrote to {path}, which is mounted read-only",
        advice: "take `:ro` off that mount in `volumes`, or write elsewhere",
        key: Some("volumes"),
    },
    Rule {
        cause: "TooManyOpenFiles",
        on: Failure(&[r"Too many open files"]),
        when: Always,
        summary: "the task may not have more files open",
        advice: "raise `nofile` in `ulimits`, or in PyTorch call \
                 torch.multiprocessing.set_sharing_strategy(\"file_system\")",
        key: Some("ulimits"),
    },
];

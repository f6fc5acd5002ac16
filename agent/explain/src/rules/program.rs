//! The program's own end: its modules, arguments, exceptions, signals and codes.

use crate::rule::On::{Code, Crash, Failure, Lost, Output, Signal, Traceback, Worker};
use crate::rule::Rule;
use crate::rule::When::{self, Always};

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "ModuleNotFound",
        on: Failure(&[r"^ModuleNotFoundError: No module named '(?P<module>[^']+)'"]),
        when: Always,
        summary: "the image[ {image}] has no Python module {module}",
        advice: "use an `image` that has it (`RUN pip install …` in its Dockerfile); your own modules need \
                 `volumes` and PYTHONPATH in `environment`",
        key: Some("image"),
    },
    Rule {
        cause: "LibraryNotFound",
        on: Failure(&[r"(?P<library>[^ ]+\.so[0-9.]*): cannot open shared object file"]),
        when: Always,
        summary: "the image[ {image}] has no library {library}",
        advice: "use an `image` that has it",
        key: Some("image"),
    },
    Rule {
        cause: "RankVariableMissing",
        on: Failure(&[
            r"environment variable (?P<variable>[A-Z_]+) expected, but not set",
            r"^KeyError: '(?P<variable>RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT)'",
        ]),
        when: Always,
        summary: "the program wants the variable {variable}, which one process per rank gets",
        advice: "set `x-convoke.ranks: per-gpu`, or start the script with torchrun in `command`",
        key: Some("x-convoke.ranks"),
    },
    Rule {
        cause: "BadArguments",
        on: Output(&[
            r"error: (?P<what>unrecognized arguments: .+)",
            r"error: (?P<what>the following arguments are required: .+)",
            r"error: (?P<what>argument .+: invalid choice: .+)",
            r"^error: (?P<what>unexpected argument .+) found$",
        ]),
        when: Always,
        summary: "the program refused its arguments: {what}",
        advice: "correct `command`",
        key: Some("command"),
    },
    Rule {
        cause: "Interrupted",
        on: Signal(2),
        when: Always,
        summary: "it was interrupted (SIGINT), not by Convoke",
        advice: "see who sent it: the program itself, or a person on the node[ {node}]",
        key: None,
    },
    Rule {
        cause: "RustPanic",
        on: Crash(&[r"^thread '(?P<thread>[^']*)'.* panicked at (?P<at>\S+):$"]),
        when: Always,
        summary: "it panicked at {at}[: {next}]",
        advice: "fix the program; RUST_BACKTRACE=1 in `environment` shows how it came there",
        key: Some("environment"),
    },
    Rule {
        cause: "Segfault",
        on: Signal(11),
        when: Always,
        summary: "it crashed: it touched memory that is not its own (SIGSEGV)",
        advice: "a native library is the first suspect: try another version in `image`; \
                 PYTHONFAULTHANDLER=1 in `environment` shows where",
        key: Some("image"),
    },
    Rule {
        cause: "BusError",
        on: Signal(7),
        when: Always,
        summary: "it touched a mapped file that has no room behind it (SIGBUS)[; /dev/shm has {shm_size}]",
        advice: "mostly /dev/shm is too small: raise `shm_size`[ (say `shm_size: {more_shm}`)]; else a \
                 mapped data file was cut",
        key: Some("shm_size"),
    },
    Rule {
        cause: "IllegalInstruction",
        on: Signal(4),
        when: Always,
        summary: "the processor[ of {node}] does not know an instruction of the program (SIGILL)",
        advice: "use an `image` built for older processors, or other nodes with \
                 `deploy.placement.constraints`",
        key: Some("image"),
    },
    Rule {
        cause: "ArithmeticFault",
        on: Signal(8),
        when: Always,
        summary: "it divided an integer by zero, or the like (SIGFPE)",
        advice: "fix the program; PYTHONFAULTHANDLER=1 in `environment` shows where",
        key: Some("environment"),
    },
    Rule {
        cause: "Killed",
        on: Signal(9),
        when: Always,
        summary: "it was killed (SIGKILL), and not by Convoke[; it may use {limit} of memory][ and used \
                  {peak}]",
        advice: "mostly the host's memory ran out: look for \"Out of memory\" in the kernel's log[ of \
                 {node}], and set `deploy.resources.limits.memory` so that the job waits for room",
        key: Some("deploy.resources.limits.memory"),
    },
    Rule {
        cause: "Terminated",
        on: Signal(15),
        when: Always,
        summary: "it was told to end (SIGTERM), and not by Convoke",
        advice: "see who sent it: a script of its own, a person or the system on the node[ {node}]",
        key: None,
    },
    Rule {
        cause: "PythonException",
        on: Traceback,
        when: Always,
        summary: "{exception}[, then {ended_by}]",
        advice: "fix the program[: {place}]",
        key: None,
    },
    Rule {
        cause: "CppException",
        on: Crash(&[r"^terminate called after throwing an instance of '(?P<kind>[^']+)'"]),
        when: Always,
        summary: "an exception of C++ ({kind}) was not caught[: {next}]",
        advice: "fix the program, or report it to the library that threw",
        key: None,
    },
    Rule {
        cause: "Aborted",
        on: Signal(6),
        when: Always,
        summary: "it gave itself up (SIGABRT)",
        advice: "its last lines say why; PYTHONFAULTHANDLER=1 in `environment` shows where",
        key: Some("environment"),
    },
    Rule {
        cause: "CommandNotFound",
        on: Output(&[r"(?P<program>[^ :]+): (?:command )?not found$"]),
        when: When::Code(127),
        summary: "the command {program} was not found[ in the image {image}]",
        advice: "correct `command`, or use an `image` that has {program}",
        key: Some("command"),
    },
    Rule {
        cause: "CommandNotFound",
        on: Code(127),
        when: Always,
        summary: "a command was not found: it exited with code 127",
        advice: "look for the missing program in `command`",
        key: Some("command"),
    },
    Rule {
        cause: "NotExecutable",
        on: Output(&[r"(?P<program>[^ :]+): Permission denied$"]),
        when: When::Code(126),
        summary: "{program} is there, and cannot be executed: it lacks the x bit",
        advice: "`chmod +x` it and ship it again, or name its interpreter in `command` (as `python \
                 train.py`)",
        key: Some("command"),
    },
    Rule {
        cause: "NotExecutable",
        on: Code(126),
        when: Always,
        summary: "a command could not be executed: it exited with code 126",
        advice: "look at the program in `command`: its x bit, its format",
        key: Some("command"),
    },
    Rule {
        cause: "WorkerFailed",
        on: Worker,
        when: Always,
        summary: "its process exited with code {worker_code} and printed no traceback",
        advice: "look at its last lines (`convoke logs --rank N`); decorate its main function with \
                 torchrun's @record to have the traceback here",
        key: None,
    },
    Rule {
        cause: "Lost",
        on: Lost,
        when: Always,
        summary: "nobody saw how it ended: what watched it[ on {node}] went away first",
        advice: "look for a reboot, or for \"Out of memory\" in the kernel's log there",
        key: None,
    },
];

//! A task that could not be started: what the Docker Engine, its registry or the shim said. Who
//! passes it on may have put words before it.

use crate::rule::On::Engine;
use crate::rule::Rule;
use crate::rule::When::Always;

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "CommandNotFound",
        on: Engine(&[
            r#"exec: "(?P<program>[^"]+)": executable file not found in \$PATH"#,
            r#"exec: "(?P<program>[^"]+)": stat [^:]+: no such file or directory"#,
            r"(?:^|: )(?P<program>[^: ]+): command not found on ",
            r"(?:^|: )(?P<program>[^: ]+): no such file on .*\(looked in ",
            r"(?:^|: )(?P<program>[^: ]+): command not found in image ",
        ]),
        when: Always,
        summary: "the command {program} was not found[ in the image {image}]",
        advice: "correct `command` (or `entrypoint`), or use an `image` that has {program}",
        key: Some("command"),
    },
    Rule {
        cause: "NotExecutable",
        on: Engine(&[
            r#"exec: "(?P<program>[^"]+)": permission denied"#,
            r"(?:^|: )(?P<program>[^: ]+): .* is not executable; chmod \+x it",
            r"(?:^|: )(?P<program>[^: ]+): .* is a directory, not a program",
            r"(?:^|: )(?P<program>[^: ]+) in image \S+ is not executable, or a directory",
        ]),
        when: Always,
        summary: "{program} is there, and cannot be executed: it is a directory, or lacks the x bit",
        advice: "`chmod +x` it and ship it again, or name its interpreter in `command` (as `python \
                 train.py`)",
        key: Some("command"),
    },
    Rule {
        cause: "WrongFormat",
        on: Engine(&[
            r"(?:^|: )(?P<program>[^ ]+) could not be executed on [^:]+: Exec format error",
            r"(?:^|: )(?P<program>[^ ]+) of image \S+ cannot be run: Exec format error",
        ]),
        when: Always,
        summary: "{program} is no program of this machine's kind: another processor's, or a script without \
                  `#!`",
        advice: "name the interpreter in `command` (as `sh run.sh`), or build the program for this \
                 processor",
        key: Some("command"),
    },
    Rule {
        cause: "ImageNotFound",
        on: Engine(&[
            r"manifest for (?P<name>\S+) not found",
            r"No such image: (?P<name>\S+)",
            r"(?:^|: )name unknown\b",
            r"there is no image (?P<name>\S+) at ",
            r"this node has no image (?P<name>[^ ,]+), and an id cannot be pulled",
        ]),
        when: Always,
        summary: "there is no such image[: {image}]",
        advice: "correct the name and tag in `image`, or push it; an image that only you have is sent \
                 along by `convoke up`",
        key: Some("image"),
    },
    Rule {
        cause: "ImageDenied",
        on: Engine(&[
            r"pull access denied for (?P<name>[^, ]+)",
            r"(?:^|: )denied\b",
            r"unauthorized: authentication required",
            r"no basic auth credentials",
            r"the registry \S+ refuses .+ to pull ",
        ]),
        when: Always,
        summary: "the registry does not let this node pull the image[ {image}]: no login, a wrong one, or \
                  no such name",
        advice: "correct `image`, or log in on every node (`docker login`, as the agent's user) with an \
                 account that may pull it; `convoke up --ship-image` sends what your own Docker has",
        key: Some("image"),
    },
    Rule {
        cause: "RegistryLimit",
        on: Engine(&[r"toomanyrequests: (?P<why>.+)"]),
        when: Always,
        summary: "the registry refuses more pulls for now",
        advice: "log in on every node (`docker login`), wait, or name a mirror in `image`",
        key: Some("image"),
    },
    Rule {
        cause: "RegistryNotTrusted",
        on: Engine(&[r"server gave HTTP response to HTTPS client", r"x509: (?P<why>.+)"]),
        when: Always,
        summary: "the node's Docker Engine does not trust the registry[ of {image}]: no TLS, or an unknown \
                  certificate",
        advice: "add the registry's certificate (or `insecure-registries`) to Docker's settings on every \
                 node, or use another `image`",
        key: Some("image"),
    },
    Rule {
        cause: "RegistryUnreachable",
        on: Engine(&[
            r"dial tcp: lookup (?P<host>[^ ]+).*: no such host",
            r"dial tcp (?P<host>[^ ]+): connect: ",
            r"TLS handshake timeout",
        ]),
        when: Always,
        summary: "the node[ {node}] could not reach the registry[ {host}]",
        advice: "check the registry's name in `image`; a node without internet needs a mirror, or an image \
                 that is sent along by `convoke up`",
        key: Some("image"),
    },
    Rule {
        cause: "WrongPlatform",
        on: Engine(&[r"(?P<name>\S+) is not made for this node's processor"]),
        when: Always,
        summary: "the image {name} is not made for the processor[ of {node}]",
        advice: "use an `image` that is built for it, or keep the job to other nodes with \
                 `deploy.placement.constraints`",
        key: Some("image"),
    },
    Rule {
        cause: "BadImageName",
        on: Engine(&[
            r"invalid reference format(?:: (?P<why>.+))?",
            r#""[^"]*" is not the name of an image: (?P<why>.+)"#,
        ]),
        when: Always,
        summary: "that is no image name[: {image}][: {why}]",
        advice: "correct `image`: lower case, as `registry/team/train:2.1`",
        key: Some("image"),
    },
    Rule {
        cause: "NoSpaceLeft",
        on: Engine(&[
            r"(?:write|mkdir) (?P<path>\S+): no space left on device",
            r"no space is left for (?P<path>\S+) below ",
        ]),
        when: Always,
        summary: "the disk of the Docker Engine[ on {node}] is full: no room for {path}",
        advice: "remove old images there (`docker image prune`), or keep the job elsewhere with \
                 `deploy.placement.constraints`",
        key: Some("deploy.placement.constraints"),
    },
    Rule {
        cause: "PortTaken",
        on: Engine(&[
            r"Bind for [^ ]+:(?P<port>[0-9]+) failed: port is already allocated",
            r"listen tcp4? [^ ]+:(?P<port>[0-9]+): bind: address already in use",
        ]),
        when: Always,
        summary: "port {port}[ of {node}] is taken by another container or program",
        advice: "publish another one: change the host's part in `ports`, or leave it out and any free one \
                 is taken",
        key: Some("ports"),
    },
    Rule {
        cause: "MountMissing",
        on: Engine(&[r"bind source path does not exist: (?P<path>.+)"]),
        when: Always,
        summary: "the directory {path} to be mounted is not there[ on {node}]",
        advice: "correct `volumes`: an absolute path must exist on every node; a relative one (`./data`) \
                 travels",
        key: Some("volumes"),
    },
    Rule {
        cause: "MountMismatch",
        on: Engine(&[
            r#"error mounting "(?P<path>[^"]+)" to rootfs at "(?P<target>[^"]+)".*: not a directory"#,
        ]),
        when: Always,
        summary: "{path} cannot be mounted at {target}: one is a file, the other a directory",
        advice: "correct the pair in `volumes`: a file over a file, a directory over a directory",
        key: Some("volumes"),
    },
    Rule {
        cause: "UserUnknown",
        on: Engine(&[r"unable to find user (?P<user>[^:]+): no matching entries"]),
        when: Always,
        summary: "the image[ {image}] has no user {user}",
        advice: "write a number in `user` (as `user: \"1000\"`), or add the user to the image",
        key: Some("user"),
    },
    Rule {
        cause: "WorkingDirMissing",
        on: Engine(&[r"Cannot mkdir: (?P<path>.+) is not a directory"]),
        when: Always,
        summary: "the working directory {path} is a file in the image",
        advice: "correct `working_dir`",
        key: Some("working_dir"),
    },
    Rule {
        cause: "UlimitRefused",
        on: Engine(&[r"error setting rlimit type (?P<kind>[0-9]+)"]),
        when: Always,
        summary: "the host[ {node}] refuses a limit that the job asks for (type {kind})",
        advice: "lower it in `ulimits`, or raise the Docker Engine's own limit there",
        key: Some("ulimits"),
    },
    Rule {
        cause: "DriverTooOld",
        on: Engine(&[r"unsatisfied condition: (?P<need>cuda[^,]*), please update your driver"]),
        when: Always,
        summary: "the image needs {need}, and the NVIDIA driver[ of {node}] is older",
        advice: "use an `image` built for an older CUDA, or update the driver there",
        key: Some("image"),
    },
    Rule {
        cause: "GpuRuntimeMissing",
        on: Engine(&[
            r"could not select device driver",
            r"[Uu]nknown runtime specified nvidia",
            r"nvidia-container-cli: initialization error",
            r"unresolvable CDI devices (?P<device>\S+)",
        ]),
        when: Always,
        summary: "the Docker Engine[ of {node}] cannot give GPUs to containers: {error}",
        advice: "install NVIDIA's driver and container toolkit there; a job that needs no GPU leaves out \
                 `deploy.resources.reservations.devices`",
        key: Some("deploy.resources.reservations.devices"),
    },
    Rule {
        cause: "DeviceMissing",
        on: Engine(&[r#"while adding custom device "(?P<path>[^"]+)": no such file or directory"#]),
        when: Always,
        summary: "the device {path} is not there[ on {node}]",
        advice: "correct `devices`, or keep the job to nodes that have it with \
                 `deploy.placement.constraints`",
        key: Some("devices"),
    },
    Rule {
        cause: "NetworkMissing",
        on: Engine(&[r"network (?P<network>\S+) not found"]),
        when: Always,
        summary: "the Docker Engine[ of {node}] has no network {network}",
        advice: "leave out `network_mode` (gangs use the host's network), or create the network on every \
                 node",
        key: Some("network_mode"),
    },
    Rule {
        cause: "LimitRefused",
        on: Engine(&[r"Minimum memory limit allowed is (?P<least>\S+)"]),
        when: Always,
        summary: "the memory limit[ of {limit}] is below the least that the engine takes, {least}",
        advice: "raise `deploy.resources.limits.memory`; a number without unit counts bytes",
        key: Some("deploy.resources.limits.memory"),
    },
    Rule {
        cause: "LimitRefused",
        on: Engine(&[r"Range of CPUs is from [^,]+, as there are only (?P<cpus>[0-9]+) CPUs available"]),
        when: Always,
        summary: "the job asks for more processors than the {cpus} of the node[ {node}]",
        advice: "lower `deploy.resources.limits.cpus`",
        key: Some("deploy.resources.limits.cpus"),
    },
    Rule {
        cause: "NameTaken",
        on: Engine(&[
            r#"the container name "(?P<name>[^"]+)" is already in use by (?P<by>[^;]+)"#,
            r#"The container name "/?(?P<name>[^"]+)" is already in use"#,
        ]),
        when: Always,
        summary: "a container called {name} exists already[ on {node}][: that of {by}]",
        advice: "change or leave out `container_name`, or end the other one first",
        key: Some("container_name"),
    },
    Rule {
        cause: "CouldNotStart",
        on: Engine(&[r"\S"]),
        when: Always,
        summary: "it could not be started: {error}",
        advice: "the engine's own words are all that is known; look at its log on the node[ {node}]",
        key: None,
    },
];

//! Ports, interfaces, and ranks that do not find each other.

use crate::rule::On::Failure;
use crate::rule::Rule;
use crate::rule::When::{Always, Said};

const INTERFACE: Option<&str> = Some("x-convoke.interface");
const CHOOSE_INTERFACE: &str = "let no firewall stand between the nodes[ on {interface}], and name the interface that \
                                they share in `x-convoke.interface`";

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "RendezvousPortTaken",
        on: Failure(&[
            r"server socket has failed to listen on any local network address\. port: (?P<port>[0-9]+),.*EADDRINUSE",
            r"server socket has failed to bind to [^ ]+:(?P<port>[0-9]+) \(errno: 98",
        ]),
        when: Always,
        summary: "port {port} for the ranks' rendezvous is taken[ on {node}]",
        advice: "leave `--master_port` out of `command` and MASTER_PORT out of `environment`: Convoke \
                 picks a free port for each start",
        key: Some("command"),
    },
    Rule {
        cause: "PortTaken",
        on: Failure(&[r"\[Errno 98\] Address already in use", r"code: 98, kind: AddrInUse"]),
        when: Always,
        summary: "a port that the program listens on is taken[ on {node}]",
        advice: "tasks with host networking share the node's ports: choose another port in `command` and \
                 `ports`",
        key: Some("ports"),
    },
    Rule {
        cause: "InterfaceMissing",
        on: Failure(&[
            r"Bootstrap : no socket interface found",
            r"Unable to find address for: (?P<name>\S+)",
        ]),
        when: Always,
        summary: "NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME names a network interface[, {name},] that is \
                  not there[ on {node}]",
        advice: "leave those variables out of `environment` (Convoke sets them per node[; here to \
                 {interface}]), or name the interface in `x-convoke.interface`",
        key: INTERFACE,
    },
    Rule {
        cause: "NcclConnection",
        on: Failure(&[
            r"socket(?:Start|Poll)Connect: [Cc]onnect to (?P<peer>[^ ]+) (?:failed : |returned )(?P<why>[^,]+)",
        ]),
        when: Always,
        summary: "NCCL could not connect to {peer}: {why}[; this node's address is {address} on \
                  {interface}]",
        advice: CHOOSE_INTERFACE,
        key: INTERFACE,
    },
    Rule {
        cause: "GlooConnection",
        on: Failure(&[
            r"Gloo connectFullMesh failed with .*: (?P<why>[^:]+), remote=(?P<peer>\[[^\]]+\]:[0-9]+)",
            r"gloo/transport/tcp/pair\.cc:[0-9]+\] connect (?P<peer>\[[^\]]+\]:[0-9]+): (?P<why>.+)",
            r"gloo/transport/tcp/pair\.h:[0-9]+\] (?P<why>Connect timeout) (?P<peer>\[[^\]]+\]:[0-9]+)",
        ]),
        when: Always,
        summary: "gloo could not connect to {peer}: {why}[; this node's address is {address} on \
                  {interface}]",
        advice: CHOOSE_INTERFACE,
        key: INTERFACE,
    },
    Rule {
        cause: "NameNotResolved",
        on: Failure(&[
            r"client socket has timed out after \S+ while trying to connect to \((?P<host>[^,]+), [0-9]+\)",
        ]),
        when: Said(&["cannot be retrieved (gai error: -2", "cannot be retrieved (gai error: -3"]),
        summary: "the node[ {node}] cannot resolve the name {host} of the rendezvous",
        advice: "leave `--master_addr` and `--rdzv_endpoint` out of `command`: Convoke fills in an \
                 address; or add the name to `extra_hosts`",
        key: Some("command"),
    },
    Rule {
        cause: "NameNotResolved",
        on: Failure(&[
            r"\[Errno -[23]\] (?P<why>Temporary failure in name resolution|Name or service not known)",
        ]),
        when: Always,
        summary: "the program asked for a host name that cannot be resolved[ on {node}]",
        advice: "correct the name; a service of the file has one once it is there: wait for it with \
                 `depends_on`; add any other to `extra_hosts`, or bring what is downloaded along under \
                 `volumes`: nodes may have no internet",
        key: Some("extra_hosts"),
    },
    Rule {
        cause: "RendezvousTimeout",
        on: Failure(&[
            r"client socket has timed out after (?P<after>\S+) while trying to connect to \((?P<host>[^,]+), (?P<port>[0-9]+)\)",
        ]),
        when: Always,
        summary: "nobody listened at {host}:{port} for {after}: the rank that opens the rendezvous never \
                  did, or cannot be reached",
        advice: "let every rank call init_process_group, leave `--master_addr` and `--master_port` out of \
                 `command`, and name the interface that the nodes share in `x-convoke.interface`",
        key: INTERFACE,
    },
    Rule {
        cause: "RendezvousTimeout",
        on: Failure(&[
            r"Timed out after (?P<after>[0-9]+ seconds) waiting for clients\. (?P<met>[0-9]+/[0-9]+) clients joined",
            r"^torch\.distributed\.elastic\.rendezvous\.api\.RendezvousTimeoutError",
            r"^RuntimeError: Socket Timeout$",
            r"got error: Socket Timeout",
            r"JAX distributed service detected fatal errors\..* DEADLINE_EXCEEDED",
        ]),
        when: Always,
        summary: "the ranks did not all meet in time[: {met} came][ in {after}]",
        advice: "see whether the other ranks reached init_process_group (`convoke logs`); `--nnodes` in \
                 `command` must fit `deploy.replicas`, best left out",
        key: Some("command"),
    },
    Rule {
        cause: "ConnectionRefused",
        on: Failure(&[r"^ConnectionRefusedError: \[Errno 111\]"]),
        when: Always,
        summary: "a service that the program needs does not listen (yet)",
        advice: "start it first and wait for it: `depends_on` with `condition: service_healthy`; in a gang \
                 with host networking, use the node's address",
        key: Some("depends_on"),
    },
    Rule {
        cause: "CollectiveTimeout",
        on: Failure(&[
            r"Watchdog caught collective operation timeout: WorkNCCL\(SeqNum=(?P<seq>[0-9]+), OpType=(?P<op>\w+).* ran for (?P<ms>[0-9]+) milliseconds",
            r"Timed out waiting (?P<ms>[0-9]+)ms for (?:recv|send) operation",
        ]),
        when: Always,
        summary: "it waited {ms} ms for the other ranks in a collective operation[ ({op}, number {seq})]: \
                  one hangs, is slow, or took another path",
        advice: "look at the rank that says nothing (`convoke logs --rank N`); a step that takes long by \
                 design needs a longer timeout in init_process_group",
        key: None,
    },
    Rule {
        cause: "PeerLost",
        on: Failure(&[
            r"Connection closed by (?:remote )?peer",
            r"Connection reset by peer",
            r"^ncclRemoteError: ",
            r"most likely indicates that another task died",
        ]),
        when: Always,
        summary: "another rank went away while this one waited for it",
        advice: "look at the rank that failed first; this one is a consequence",
        key: None,
    },
];

#!/usr/bin/env python3
"""Submits a job to a Convoke coordinator and follows it to its end.

Uses nothing but the public API: the stubs are generated from proto/ on the way in. Exit codes: 0 the
job succeeded, 1 it did not, 2 wrong usage, 3 no coordinator answers, 4 the coordinator refused.
"""

import argparse
import sys
import tempfile
import threading
import time
import uuid
from importlib import import_module
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
FILES = ["types", "operator"]
DEMO = 'for step in 1 2 3; do echo "{\\"step\\": $step, \\"rank\\": $RANK}"; done; echo "rank $RANK of $WORLD_SIZE is done"'


def generate(directory: Path):
    """Generates the stubs into `directory`; returns the modules of types, operator, and its services."""
    sources = [f"convoke/v1/{name}.proto" for name in FILES]
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    if protoc.main([*arguments, *sources]) != 0:
        raise SystemExit(f"the files below {PROTO} could not be compiled")
    sys.path.insert(0, str(directory))
    names = ["types_pb2", "operator_pb2", "operator_pb2_grpc"]
    return [import_module(f"convoke.v1.{name}") for name in names]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinator", default="127.0.0.1:7670", metavar="HOST:PORT")
    parser.add_argument("--name", default="from-python", help="name of the job")
    parser.add_argument("--key", default=str(uuid.uuid4()), help="idempotency key of this submit")
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes")
    parser.add_argument("--ranks", type=int, default=1, help="ranks (CPU slots) on each node")
    parser.add_argument("command", nargs="*", default=["/bin/sh", "-c", DEMO])
    return parser.parse_args(arguments)


def job_spec(types, options):
    """A job of host processes, one rank on each CPU slot."""
    return types.JobSpec(
        name=options.name,
        project="python-client",
        service=options.name,
        project_dir=str(Path.cwd()),
        command=options.command,
        replicas=options.nodes,
        devices=types.DeviceRequest(kind=types.DEVICE_KIND_CPU, exactly=options.ranks),
        layout=types.RANK_LAYOUT_PER_GPU,
        framework=types.FRAMEWORK_TORCH,
        restart=types.RestartPolicy(infrastructure=3, application=0),
        stop_signal=15,
        stop_grace_ms=10_000,
        failure_grace_ms=2_000,
        checkpoint=types.CheckpointPolicy(keep=3, shards=types.SHARDS_RANK_ZERO),
        collect=types.COLLECT_NODE_RANK_ZERO,
    )


def submit(jobs, operator, spec, key, tries=10):
    """Submits. The key makes it safe to try again: the coordinator knows a submit that it accepted."""
    request = operator.SubmitJobRequest(idempotency_key=key, spec=spec)
    for left in reversed(range(tries)):
        try:
            return jobs.SubmitJob(request, timeout=10)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or left == 0:
                raise
            time.sleep(0.5)


def print_log(jobs, operator, job):
    """Prints what every rank prints, until the job has ended and its last line is here."""
    for batch in jobs.StreamLogs(operator.StreamLogsRequest(job=job, follow=True)):
        for line in batch.lines:
            print(f"[{line.node} rank {line.rank}] {line.text}", flush=True)


def follow(types, operator, jobs, job):
    """Prints the log and every change of state; returns the job as it ended."""
    log = threading.Thread(target=print_log, args=(jobs, operator, job.id), daemon=True)
    log.start()
    state = None
    for change in jobs.WatchJob(operator.WatchJobRequest(job=job.id)):
        job = change.job
        if job.state != state:
            state = job.state
            name = types.JobState.Name(state).removeprefix("JOB_STATE_").lower()
            print(f"job {job.spec.name} ({job.id}): {name} {job.reason}".rstrip(), flush=True)
    log.join(timeout=30)
    return job


def main(arguments):
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as directory:
        types, operator, services = generate(Path(directory))
        with grpc.insecure_channel(options.coordinator) as channel:
            jobs = services.JobServiceStub(channel)
            try:
                answer = submit(jobs, operator, job_spec(types, options), options.key)
                if answer.already_submitted:
                    print(f"already submitted as {answer.job.id}", flush=True)
                job = follow(types, operator, jobs, answer.job)
            except grpc.RpcError as error:
                away = error.code() is grpc.StatusCode.UNAVAILABLE
                what = f"no coordinator answers at {options.coordinator}" if away else "refused"
                print(f"error: {what}: {error.details()}", file=sys.stderr)
                return 3 if away else 4
    return 0 if job.state == types.JOB_STATE_SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

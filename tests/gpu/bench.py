"""The trainer and PyTorch in turns, on one GPU: medians, with the least and the greatest of the runs.

bench.py TRAINER DATA [RUNS]. Its own PyTorch processes wait, idle, while others run.
"""
import json, os, pathlib, socket, statistics, subprocess, sys, tempfile, time

trainer, data = sys.argv[1:3]
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 7
script = pathlib.Path(__file__).with_name("guide_cnn_torch.py")


def ours(batch, precision, steps, *more):
    command = [trainer, "--data", data, "--device", "cuda", "--precision", precision, "--batch", str(batch)]
    command += ["--bench", str(steps), *more]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.splitlines()
    result = json.loads(next(line for line in lines if line.startswith("{")))
    return result, [line for line in lines if line.endswith(" us")]


class Torch:
    def __init__(self, batch, steps, *more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(script), "--batch", str(batch), "--steps", str(steps), *more]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **alone})
        self.first = json.loads(self.process.stdout.readline())["first_step_s"]

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["us_per_step"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def spread(values):
    return f"{statistics.median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"


def against_torch(batch, precision, steps, torch_steps, *settings):
    torch = Torch(batch, torch_steps, *settings)
    times = {"ours": [], "PyTorch": []}
    for _ in range(runs):
        result, kernels = ours(batch, precision, steps)
        times["ours"].append(result["us_per_step"])
        times["PyTorch"].append(torch.run())
    torch.close()
    ratio = statistics.median(times["PyTorch"]) / statistics.median(times["ours"])
    print(f"batch {batch} {precision}, {runs} runs each in turns, µs a step: ours {spread(times['ours'])}, "
          f"PyTorch graph {' '.join(settings)} {spread(times['PyTorch'])}: {ratio:.2f} times; "
          f"PyTorch's first step after {torch.first} s")
    print("  " + ", ".join(" ".join(line.split()) for line in kernels), flush=True)


def checkpoints(batch, precision, steps):
    times = {False: [], True: []}
    for _ in range(runs):
        for save in times:
            with tempfile.TemporaryDirectory() as directory:
                more = ["--checkpoint-every", "100", "--checkpoint-dir", directory] if save else []
                result, _ = ours(batch, precision, steps, *more)
                times[save].append(result["us_per_step"])
    cost = statistics.median(times[True]) / statistics.median(times[False]) - 1
    print(f"batch {batch} {precision}, a checkpoint every 100 steps, µs a step: without {spread(times[False])}, "
          f"with {spread(times[True])}: {cost:+.2%}; of the last run's {steps // 100}, {result['saved']} were "
          f"written and {result['left_out']} left out", flush=True)


def first_step():
    seconds, wall = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory:
            metrics = pathlib.Path(directory, "metrics")
            command = [trainer, "--data", data, "--device", "cuda", "--epochs", "1"]
            begin = time.time()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=60,
                           env={**os.environ, "CONVOKE_METRICS": str(metrics)})
            wall.append(time.time() - begin)
            records = map(json.loads, metrics.read_text().splitlines())
            seconds.append(next(r["seconds_to_first_step"] for r in records if "seconds_to_first_step" in r))
    print(f"process to first step, tf32, s: {statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}); "
          f"with an epoch and the test {statistics.median(wall):.3f}", flush=True)


first_step()
against_torch(64, "tf32", 20000, 2000, "--tuned")
against_torch(64, "bf16", 20000, 2000, "--tuned", "--bf16")
against_torch(1024, "bf16", 4000, 700, "--bf16")
checkpoints(64, "tf32", 20000)
checkpoints(1024, "bf16", 4000)

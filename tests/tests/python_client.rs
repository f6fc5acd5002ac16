//! The client of `examples/python-client`, against a real cluster.
//!
//! Its packages come from PyPI into a virtual environment in the target directory, once. Where that
//! cannot be, the test is reported as ignored, under a name that says what is missing.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use convoke_tests::{LocalCluster, binary, repository};
use libtest_mimic::{Arguments, Failed, Trial};

const NAME: &str = "a_python_client_generated_from_the_protos_submits_a_job_and_follows_it_to_its_end";

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let trial = if args.list || args.filter.as_ref().is_some_and(|filter| !NAME.contains(filter)) {
        // What is only listed needs no packages.
        Trial::test(NAME, || Ok(()))
    } else {
        match environment() {
            Ok(python) => Trial::test(NAME, move || story(&python)),
            Err(missing) => {
                Trial::test(format!("{NAME} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
            }
        }
    };
    libtest_mimic::run(&args, vec![trial]).exit_code()
}

/// The interpreter of a virtual environment that has what the client needs; or what is missing.
fn environment() -> Result<PathBuf, String> {
    let requirements = client_dir().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(|e| format!("{}: {e}", requirements.display()))?;
    let target = binary("convoke").parent().expect("a binary lies in a directory").to_owned();
    let venv = target.join("python-client-venv");
    let python = venv.join("bin/python");
    // Written last: half an environment is made again.
    let complete = venv.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), "python3 with venv")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"].map(OsStr::new);
    run(Command::new(&python).args(pip).arg(&requirements), "PyPI's grpcio")?;
    fs::write(&complete, wanted).map_err(|e| format!("{}: {e}", complete.display()))?;
    Ok(python)
}

fn run(command: &mut Command, what: &str) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{what}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{what}: {}", stderr.lines().last().unwrap_or("it failed without a word")))
}

fn client_dir() -> PathBuf {
    repository().join("examples/python-client")
}

fn story(python: &Path) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(async {
        let cluster = LocalCluster::start(&[2, 2]).await;
        let address = cluster.url().trim_start_matches("http://").to_owned();
        let client = |args: &'static [&str]| {
            let mut command = tokio::process::Command::new(python);
            command.arg(client_dir().join("client.py")).args(["--coordinator", &address]).args(args);
            command.current_dir(cluster.directory()).kill_on_drop(true);
            async move { tokio::time::timeout(convoke_tests::DEADLINE, command.output()).await }
        };
        let gang = &["--name", "gang", "--key", "once", "--nodes", "2", "--ranks", "2"];
        let first = text(client(gang).await??, 0)?;
        for rank in 0..4 {
            let line = format!("[node-{} rank {rank}] rank {rank} of 4 is done", rank / 2);
            assert!(first.contains(&line), "no \"{line}\" in:\n{first}");
        }
        assert!(first.contains(": running") && first.contains(": succeeded"), "{first}");

        let again = text(client(gang).await??, 0)?;
        assert!(again.contains("already submitted as"), "{again}");

        let failing = &["--name", "failing", "--", "/bin/sh", "-c", "exit 3"];
        let failed = text(client(failing).await??, 1)?;
        assert!(failed.contains(": failed"), "{failed}");

        let refused = text(client(&["--name", "big", "--nodes", "3"]).await??, 4)?;
        assert!(refused.contains("refused"), "{refused}");
        cluster.finish().await;
        Ok(())
    }))
}

/// What it said, if it ended with `code`.
fn text(output: Output, code: i32) -> Result<String, Failed> {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(code) {
        Ok(said)
    } else {
        Err(format!("{}:\n{said}", output.status).into())
    }
}

//! A command inside a container.

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use convoke_proto::v1;
use convoke_proto::v1::tunnel_frame::Frame;
use futures::StreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::frames::{Broken, In, Out, refused};

/// Runs the command to its end, or until its operator goes away; the command then loses its terminal
/// or its standard input, as on a broken ssh connection.
pub(super) async fn exec(
    docker: &Docker,
    container: &str,
    asked: v1::TunnelExec,
    mut input: In,
    output: Out,
) -> Result<(), Broken> {
    let (rows, columns) = (asked.rows, asked.columns);
    let tty = asked.tty;
    let created =
        docker.create_exec(container, config(asked)).await.map_err(refused("the command was refused"))?;
    let start = StartExecOptions { detach: false, tty, output_capacity: None };
    let started = docker.start_exec(&created.id, Some(start)).await;
    let StartExecResults::Attached { output: mut said, input: mut typed } =
        started.map_err(refused("the command was not started"))?
    else {
        return Err(Broken::Refused("the engine did not attach to the command".to_owned()));
    };
    if tty {
        resize(docker, &created.id, rows, columns).await;
    }
    let mut typing = true;
    loop {
        tokio::select! {
            line = said.next() => match line {
                Some(Ok(LogOutput::StdErr { message })) => output.data(message, Frame::ErrorData).await?,
                Some(Ok(said)) => output.data(said.into_bytes(), Frame::Data).await?,
                Some(Err(error)) => return Err(refused("its output broke off")(error)),
                None => break,
            },
            frame = input.next(), if typing => match frame {
                Ok(frame) => typing = take(docker, &created.id, &mut typed, frame).await,
                Err(Broken::Gone) => return Err(Broken::Gone),
                Err(refused) => return Err(refused),
            },
        }
    }
    let ended = docker.inspect_exec(&created.id).await.map_err(refused("its exit code is not known"))?;
    let code = ended.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
    output.send(Frame::Exit(v1::TunnelExit { code })).await
}

/// What the operator typed, or did to the terminal; false once the command takes no more.
async fn take(docker: &Docker, exec: &str, typed: &mut (impl AsyncWrite + Unpin), frame: Frame) -> bool {
    match frame {
        Frame::Data(bytes) => typed.write_all(&bytes).await.is_ok() && typed.flush().await.is_ok(),
        Frame::End(_) => {
            let _ = typed.shutdown().await;
            // The operator is still listened for: its going away ends the session.
            true
        }
        Frame::Resize(size) => {
            resize(docker, exec, size.rows, size.columns).await;
            true
        }
        _ => true,
    }
}

/// A terminal of the wrong size is a nuisance, no failure.
async fn resize(docker: &Docker, exec: &str, rows: u32, columns: u32) {
    let (Ok(height), Ok(width)) = (u16::try_from(rows), u16::try_from(columns)) else { return };
    if height > 0 && width > 0 {
        let _ = docker.resize_exec(exec, ResizeExecOptions { height, width }).await;
    }
}

fn config(asked: v1::TunnelExec) -> ExecConfig {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let mut environment: Vec<String> =
        asked.environment.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    environment.sort();
    ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(asked.tty),
        cmd: Some(asked.command),
        user: some(asked.user),
        working_dir: some(asked.working_dir),
        env: Some(environment),
        ..Default::default()
    }
}

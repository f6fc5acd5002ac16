//! A command inside a container.

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use convoke_proto::v1;
use convoke_proto::v1::tunnel_frame::Frame;
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::frames::{Broken, In, Out, refused};

/// Runs the command to its end, or until its operator goes away; the command then loses its terminal
/// or its standard input, as on a broken ssh connection.
pub(super) async fn exec(
    docker: &Docker,
    container: &str,
    asked: v1::TunnelExec,
    input: In,
    output: Out,
) -> Result<(), Broken> {
    let (rows, columns) = (asked.rows, asked.columns);
    let tty = asked.tty;
    let created =
        docker.create_exec(container, config(asked)).await.map_err(refused("the command was refused"))?;
    let start = StartExecOptions { detach: false, tty, output_capacity: None };
    let started = docker.start_exec(&created.id, Some(start)).await;
    let StartExecResults::Attached { output: said, input: typed } =
        started.map_err(refused("the command was not started"))?
    else {
        return Err(Broken::Refused("the engine did not attach to the command".to_owned()));
    };
    if tty {
        resize(docker, &created.id, rows, columns).await;
    }
    // Side by side: a command that prints while it reads must not wait for itself.
    tokio::select! {
        told = tell(said, &output) => told?,
        broken = type_in(docker, &created.id, typed, input) => return Err(broken),
    }
    let ended = docker.inspect_exec(&created.id).await.map_err(refused("its exit code is not known"))?;
    let code = ended.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
    output.send(Frame::Exit(v1::TunnelExit { code })).await
}

/// Passes on what the command says, to its end.
async fn tell(
    mut said: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Unpin,
    output: &Out,
) -> Result<(), Broken> {
    while let Some(line) = said.next().await {
        match line.map_err(refused("its output broke off"))? {
            LogOutput::StdErr { message } => output.data(message, Frame::ErrorData).await?,
            said => output.data(said.into_bytes(), Frame::Data).await?,
        }
    }
    Ok(())
}

/// Passes on what the operator types, also after the command takes no more: that the operator goes away
/// ends the session.
async fn type_in(docker: &Docker, exec: &str, mut typed: impl AsyncWrite + Unpin, mut input: In) -> Broken {
    let mut typing = true;
    loop {
        match input.next().await {
            Ok(frame) if typing => typing = take(docker, exec, &mut typed, frame).await,
            Ok(_) => {}
            Err(broken) => return broken,
        }
    }
}

/// What the operator typed, or did to the terminal; false once the command takes no more.
async fn take(docker: &Docker, exec: &str, typed: &mut (impl AsyncWrite + Unpin), frame: Frame) -> bool {
    match frame {
        Frame::Data(bytes) => typed.write_all(&bytes).await.is_ok() && typed.flush().await.is_ok(),
        Frame::End(_) => {
            let _ = typed.shutdown().await;
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

//! The restart of a pod in the middle of a run: by a command, or by the operator.

use std::io::{IsTerminal, Write as _};
use std::process::{Output, Stdio};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// A restart that is to come, runs, or is over.
#[derive(Debug)]
pub struct Restart {
    command: Option<String>,
    running: Option<JoinHandle<Result<(), String>>>,
}

impl Restart {
    /// A restart by `command`, else by whoever sits at the terminal.
    ///
    /// # Errors
    /// When there is neither.
    pub fn new(command: Option<&str>) -> Result<Self, String> {
        if command.is_none() && !std::io::stdin().is_terminal() {
            return Err("--variant pod-restart: no terminal to ask for it; name a --restart-command".to_owned());
        }
        Ok(Self { command: command.map(str::to_owned), running: None })
    }

    /// Begins it; requests go on meanwhile.
    pub fn begin(&mut self) {
        self.running = Some(match self.command.clone() {
            Some(command) => tokio::spawn(run(command)),
            None => {
                let _ = writeln!(std::io::stderr(), "Restart one pod now. Press Enter when it is ready again.");
                tokio::task::spawn_blocking(|| {
                    std::io::stdin().read_line(&mut String::new()).map(|_| ()).map_err(|error| error.to_string())
                })
            }
        });
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the command failed.
    pub async fn result(self) -> Result<(), String> {
        match self.running {
            Some(running) => running.await.map_err(|error| error.to_string())?,
            None => Ok(()),
        }
    }
}

async fn run(command: String) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stderr, .. } =
        shell.output().await.map_err(|error| format!("--restart-command: no shell: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(format!("--restart-command failed ({status}): {}", said.trim().lines().last().unwrap_or("it says nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn result_of(command: &str) -> Result<(), String> {
        let mut restart = Restart::new(Some(command))?;
        restart.begin();
        restart.result().await
    }

    #[tokio::test]
    async fn the_commands_exit_code_counts() {
        assert_eq!(result_of("true").await, Ok(()));
        let error = result_of("echo why >&2; exit 3").await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    }
}

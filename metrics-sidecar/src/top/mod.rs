//! `warmpath top`: what the sidecar knows, live on the whole terminal. Data flows one way:
//!
//! ```text
//! /events ─▶ follow ─▶ state ─▶ draw ─▶ terminal
//! ```

pub mod draw;
pub mod follow;
pub mod state;

use crate::cli::observe::TopArgs;
use crate::shutdown;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use ratatui::DefaultTerminal;
use state::State;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The screen is drawn at most this often.
const FRAME: Duration = Duration::from_millis(100);

/// And at least this often, so that ages go on.
const REFRESH: Duration = Duration::from_secs(1);

/// What waits to be shown.
const QUEUE: usize = 16;

/// Shows until `q`, Ctrl-C or a signal. The terminal is as before afterwards, also after a panic.
///
/// # Errors
/// When there is no terminal.
pub async fn run(args: &TopArgs) -> Result<ExitCode, String> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err("top needs a terminal; `warmpath status` prints once".to_owned());
    }
    let (out, updates) = mpsc::channel(QUEUE);
    let following = tokio::spawn(follow::run(args.url.clone(), out));
    // Installs a panic hook that restores the terminal.
    let mut terminal = ratatui::try_init().map_err(|error| format!("terminal: {error}"))?;
    let shown = show(&mut terminal, State::new(&args.url), updates).await;
    ratatui::restore();
    following.abort();
    shown.map_err(|error| format!("terminal: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    terminal: &mut DefaultTerminal,
    mut state: State,
    mut updates: mpsc::Receiver<follow::Update>,
) -> std::io::Result<()> {
    let mut keys = EventStream::new();
    let mut signalled = std::pin::pin!(shutdown::signalled());
    let (mut due, mut drawn) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            _ = &mut signalled => return Ok(()),
            key = keys.next() => match key {
                // Nobody types any more.
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok(Event::Key(key))) if ends(key) => return Ok(()),
                Some(Ok(Event::Key(key))) if key.code == KeyCode::Tab => {
                    state.next_plugin();
                    due = Instant::now();
                }
                Some(Ok(Event::Resize(..))) => due = Instant::now(),
                Some(Ok(_)) => {}
            },
            Some(update) = updates.recv() => {
                state.take(update);
                due = due.min(drawn + FRAME);
            }
            () = sleep_until(due) => {
                terminal.draw(|frame| draw::draw(frame, &state))?;
                drawn = Instant::now();
                due = drawn + REFRESH;
            }
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => with_control,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_control_c_end_it() {
        let key = |code, modifiers| ends(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE) && !key(KeyCode::Tab, KeyModifiers::NONE));
    }
}

//! Tells every task that the process is to end.

use std::future::Future;
use tokio::sync::watch;

/// Ends what its [`Shutdown`]s wait for when it is triggered or dropped.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for the end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A connected pair.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (tx, rx) = watch::channel(false);
    (Trigger(tx), Shutdown(rx))
}

impl Trigger {
    /// Ends everything.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns when the end was asked for.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut rx = self.0.clone();
        async move {
            // An error means that the trigger is gone, which ends everything just as well.
            let _ = rx.wait_for(|end| *end).await;
        }
    }
}

/// Returns at the first SIGTERM or SIGINT.
///
/// # Errors
/// When the process may not install signal handlers.
pub async fn signalled() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

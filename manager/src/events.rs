//! Live news: one thread looks for changes, and tells all windows that are open.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream;
use tokio::sync::watch;

use crate::news_look::{LOOK_PAUSE, NewsLooker, NewsState};
use crate::state::ManagerState;

/// Windows that hear news at once.
pub(crate) const WINDOWS_MAX: usize = 32;
/// The pause after which a window is told that nothing happened, so that both ends notice a
/// connection that is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Looks for changes until it is dropped.
pub(crate) struct NewsThread {
    pulse: watch::Receiver<NewsState>,
    is_over: Arc<AtomicBool>,
}

/// One window that listens, until dropped.
struct WindowSlot(Arc<AtomicUsize>);

impl NewsThread {
    pub(crate) fn start_thread(state: &Arc<ManagerState>) -> std::io::Result<Self> {
        let (sender, pulse) = watch::channel(NewsState::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, state) = (Arc::clone(&is_over), Arc::clone(state));
        thread::Builder::new()
            .name("news".to_owned())
            .spawn(move || look_for_news(&state, &sender, &over))?;
        Ok(Self { pulse, is_over })
    }

    pub(crate) fn receiver(&self) -> watch::Receiver<NewsState> {
        self.pulse.clone()
    }
}

impl Drop for NewsThread {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn look_for_news(state: &ManagerState, sender: &watch::Sender<NewsState>, is_over: &AtomicBool) {
    let mut looker = NewsLooker::new(state.operations.as_ref());
    while !is_over.load(Ordering::Relaxed) {
        let pulse = looker.look(state.operations.as_ref(), &state.jobs);
        sender.send_if_modified(|last| {
            let is_new = *last != pulse;
            *last = pulse;
            is_new
        });
        thread::sleep(LOOK_PAUSE);
    }
}

impl Drop for WindowSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream of news for one window, until its browser is signed out; none if too many listen.
pub(crate) fn open_stream(
    pulse: watch::Receiver<NewsState>,
    windows: &Arc<AtomicUsize>,
    is_signed_in: impl Fn() -> bool + Send + 'static,
) -> Option<Response> {
    let seat = WindowSlot(Arc::clone(windows));
    // Counted first: dropping the seat counts it out again.
    if windows.fetch_add(1, Ordering::Relaxed) >= WINDOWS_MAX {
        return None;
    }
    let body = Body::from_stream(news_stream(pulse, seat, is_signed_in));
    Some(([(CONTENT_TYPE, "text/event-stream")], body).into_response())
}

fn news_stream(
    pulse: watch::Receiver<NewsState>,
    seat: WindowSlot,
    is_signed_in: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    // The first message says where things stand.
    stream::unfold(
        (pulse, seat, is_signed_in, true),
        |(mut pulse, seat, is_signed_in, is_first)| async move {
            let has_changed = is_first || await_change(&mut pulse).await?;
            if !is_signed_in() {
                return None;
            }
            let message = if has_changed {
                Bytes::from(news_message(*pulse.borrow_and_update()))
            } else {
                Bytes::from_static(b": \n\n")
            };
            Some((Ok(message), (pulse, seat, is_signed_in, false)))
        },
    )
}

/// Waits for a change, but no longer than a window may hear nothing; whether there is one. None if
/// the manager ends.
async fn await_change(pulse: &mut watch::Receiver<NewsState>) -> Option<bool> {
    match tokio::time::timeout(KEEPALIVE, pulse.changed()).await {
        Ok(changed) => changed.ok().map(|()| true),
        Err(_) => Some(false),
    }
}

/// Numbers as text: a script's numbers are too short for them.
fn news_message(pulse: NewsState) -> String {
    format!(
        "data: {{\"tree\":\"{}\",\"jobs\":\"{}\",\"running\":{},\"guests\":{}}}\n\n",
        pulse.tree, pulse.jobs, pulse.running, pulse.guest_rate
    )
}

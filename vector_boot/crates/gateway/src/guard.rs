//! A stream with deadlines: for a request's head to arrive, for an answer to be taken, for silence.
//!
//! Owns the timers of one connection. hyper tells only through its calls of the service when a head
//! was complete, so the service counts requests in a [`Pulse`] that both hold. A slow client costs
//! its own connection and nothing else.
//!
//! Start with [`Guarded`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// From a head's first byte to its last.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Silence between two requests of a connection.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(75);
/// Without a byte of an answer being taken.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(10);

/// What the service tells the stream.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Heads that were complete.
    requests: AtomicU64,
    /// A request is being served.
    busy: AtomicBool,
    /// The head's deadline passed.
    head_late: AtomicBool,
    /// The client has sent something.
    heard: AtomicBool,
}

impl Pulse {
    /// A head is complete; the request is being served while the result lives.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> Serving {
        self.requests.fetch_add(1, Relaxed);
        self.busy.store(true, Relaxed);
        Serving(self.clone())
    }

    /// Whether the client has sent anything at all.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// Whether the connection ended since a head did not arrive in time.
    #[must_use]
    pub fn head_late(&self) -> bool {
        self.head_late.load(Relaxed)
    }
}

/// See [`Pulse::request`].
#[derive(Debug)]
pub struct Serving(Arc<Pulse>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.busy.store(false, Relaxed);
    }
}

/// The stream.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    pulse: Arc<Pulse>,
    read_timer: Pin<Box<Sleep>>,
    /// Requests seen when the timer was set, and whether a head has begun since.
    seen: u64,
    head_begun: bool,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// Guards a new connection: its first head is awaited from now on.
    pub fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        Self {
            inner,
            pulse,
            read_timer: Box::pin(tokio::time::sleep(HEAD_TIME_MAX)),
            seen: 0,
            head_begun: true,
            write_timer: None,
        }
    }

    /// The stream without its deadlines.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Sets the timer anew where a request was served meanwhile or a head begins.
    fn follow(&mut self, bytes_came: bool) {
        let requests = self.pulse.requests.load(Relaxed);
        if requests != self.seen {
            self.seen = requests;
            self.head_begun = false;
            self.read_timer
                .as_mut()
                .reset(Instant::now() + IDLE_TIME_MAX);
        }
        if bytes_came && !self.head_begun && !self.pulse.busy.load(Relaxed) {
            self.head_begun = true;
            self.read_timer
                .as_mut()
                .reset(Instant::now() + HEAD_TIME_MAX);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        let bytes_came = buf.filled().len() > before;
        if bytes_came {
            this.pulse.heard.store(true, Relaxed);
        }
        this.follow(bytes_came);
        // While a request is served, its body has a deadline of its own.
        if polled.is_ready() || this.pulse.busy.load(Relaxed) {
            return polled;
        }
        if this.read_timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.pulse.head_late.store(this.head_begun, Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_timer = None;
            return polled;
        }
        let fresh = || Box::pin(tokio::time::sleep(WRITE_STALL_MAX));
        let timer = self.write_timer.get_or_insert_with(fresh);
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.timed(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.timed(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.timed(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.timed(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Runs on a clock that jumps to the next timer whenever everything waits.
    fn paused<F: Future>(body: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        builder.build().unwrap().block_on(body)
    }

    #[test]
    fn a_head_in_drops_ends_at_its_deadline_and_silence_later() {
        paused(async {
            let pulse = Arc::new(Pulse::default());
            let (mut client, server) = tokio::io::duplex(1024);
            let mut guarded = Guarded::new(server, pulse.clone());
            let start = Instant::now();
            let slow = tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            let mut buf = [0u8; 16];
            while guarded.read(&mut buf).await.is_ok() {}
            assert_eq!(start.elapsed().as_secs(), HEAD_TIME_MAX.as_secs());
            assert!(pulse.head_late());
            drop(guarded);
            slow.await.unwrap();
        });
    }

    #[test]
    fn a_served_connection_may_be_silent_for_longer() {
        paused(async {
            let pulse = Arc::new(Pulse::default());
            let (mut client, server) = tokio::io::duplex(1024);
            let mut guarded = Guarded::new(server, pulse.clone());
            client.write_all(b"head").await.unwrap();
            let mut buf = [0u8; 16];
            assert_eq!(guarded.read(&mut buf).await.unwrap(), 4);
            drop(pulse.request());
            let start = Instant::now();
            guarded.read(&mut buf).await.unwrap_err();
            assert_eq!(start.elapsed().as_secs(), IDLE_TIME_MAX.as_secs());
            assert!(!pulse.head_late());
        });
    }

    #[test]
    fn an_answer_that_nobody_takes_ends_the_connection() {
        paused(async {
            let (_client, server) = tokio::io::duplex(8);
            let mut guarded = Guarded::new(server, Arc::default());
            let e = guarded.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        });
    }
}

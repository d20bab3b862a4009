//! The body of an answer: bytes that are there, or pieces as they come.
//!
//! Start with [`Reply::whole`] and [`Reply::stream`].

use crate::guard::Serving;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::Receiver;

/// See the module.
#[derive(Debug, Default)]
pub struct Reply {
    bytes: Option<Bytes>,
    pieces: Option<Receiver<Bytes>>,
    /// The connection is not idle while pieces come.
    serving: Option<Serving>,
}

impl Reply {
    /// All of it.
    #[must_use]
    pub fn whole(body: Vec<u8>) -> Self {
        Self {
            bytes: Some(body.into()).filter(|b: &Bytes| !b.is_empty()),
            ..Self::default()
        }
    }

    /// What comes until nobody sends any more; dropping it tells whoever sends.
    #[must_use]
    pub fn stream(pieces: Receiver<Bytes>) -> Self {
        Self {
            pieces: Some(pieces),
            ..Self::default()
        }
    }

    /// Keeps the request under way as long as pieces come.
    pub fn keep(&mut self, serving: Serving) {
        self.serving = Some(serving).filter(|_| self.pieces.is_some());
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(pieces) = self.pieces.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = pieces.poll_recv(cx);
        if let Poll::Ready(None) = polled {
            self.serving = None;
        }
        polled.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.bytes, &self.pieces) {
            (_, Some(_)) => SizeHint::default(),
            // No answer comes near the limits of u64.
            (bytes, None) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}

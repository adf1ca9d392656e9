//! Generation as an asynchronous stream, for any runtime: a thread computes, the stream wakes its reader.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::{CancelToken, Finish, GenerateOptions, Session, Token};
use crate::error::{Error, Result};

/// Tokens as they come. Dropping it cancels the generation.
#[derive(Debug)]
pub struct TokenStream {
    shared: Arc<Mutex<Shared>>,
    cancel: CancelToken,
}

#[derive(Debug, Default)]
struct Shared {
    ready: VecDeque<Result<Token>>,
    ended: bool,
    finish: Option<Finish>,
    session: Option<Session>,
    waker: Option<Waker>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// [`Session::generate`] on a thread of its own, as a stream that any asynchronous runtime can read.
    ///
    /// # Errors
    /// Where the system grants no thread. What [`Session::generate`] reports comes as the stream's first item.
    pub fn stream(self, prompt: Vec<u32>, options: GenerateOptions) -> Result<TokenStream> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let cancel = options.cancel.clone();
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("smallmind-stream".into())
            .spawn(move || run(self, &prompt, &options, &writer))
            .map_err(|cause| Error::Threads { threads: 1, cause })?;
        Ok(TokenStream { shared, cancel })
    }
}

fn run(mut session: Session, prompt: &[u32], options: &GenerateOptions, shared: &Mutex<Shared>) {
    // Ends the stream whatever happens, a panic included.
    let ending = Ending(shared);
    let send = |item| {
        let waker = {
            let mut s = lock(shared);
            s.ready.push_back(item);
            s.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    };
    let finish = match session.generate(prompt, options) {
        Ok(mut generation) => {
            for item in generation.by_ref() {
                send(item);
            }
            generation.finish_reason()
        }
        Err(error) => {
            send(Err(error));
            None
        }
    };
    {
        let mut s = lock(shared);
        s.finish = finish;
        s.session = Some(session);
    }
    drop(ending);
}

struct Ending<'a>(&'a Mutex<Shared>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let waker = {
            let mut s = lock(self.0);
            s.ended = true;
            s.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl TokenStream {
    /// Stops the generation at its next token.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Why the generation ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<Finish> {
        lock(&self.shared).finish
    }

    /// The session, once the stream has ended, to go on with the conversation.
    pub fn into_session(self) -> Option<Session> {
        lock(&self.shared).session.take()
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Stream for TokenStream {
    type Item = Result<Token>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Token>>> {
        let mut s = lock(&self.shared);
        match s.ready.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if s.ended => Poll::Ready(None),
            None => {
                s.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

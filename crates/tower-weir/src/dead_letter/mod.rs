//! Dead letters: what is left of a request that has finally failed.
//!
//! Retries end. The [`DeadLetterLayer`], outermost in the stack, then writes down
//! what the request was, what was tried, and what came of it, and gives the
//! [`Letter`] to a sink; the caller gets the result, as it would without the
//! layer. From the letter the request can be sent again.
//!
//! ```
//! # #[cfg(feature = "weir")]
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::{Weir, dead_letter::{ChannelSink, DeadLetterLayer}};
//!
//! let (letters, mut received) = tokio::sync::mpsc::channel(64);
//! let dead_letters = DeadLetterLayer::new(ChannelSink::new(letters));
//! let handle = dead_letters.handle();
//!
//! let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! let mut client = ServiceBuilder::new()
//!     .layer(dead_letters)
//!     .layer(Weir::http())
//!     .service(client);
//!
//! let request = http::Request::post("http://index.internal/upsert")
//!     .body(Full::new(Bytes::from_static(b"{}")))?;
//! if client.ready().await?.call(request).await.is_err() {
//!     handle.flush().await?;
//!     let letter = received.recv().await.ok_or("no letter")?;
//!     println!("{} attempts: {:?}", letter.attempts.len(), letter.result);
//!     let again = letter.request()?;
//! #   drop(again);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is a failure
//!
//! Every error, and every response that is a failure for the caller:
//! [`has_failed`], unless the layer is [told otherwise](DeadLetterLayer::failed).
//! A caller that goes away has not failed, unless it is told
//! [that](DeadLetterLayer::on_cancel).
//!
//! # The body
//!
//! The layer does not touch it. The retries record it as they send it
//! ([`Recorder`](crate::retry::Recorder)); what they have not read, since the
//! circuit was open, say, is read when the request has failed, off the caller's
//! way. A body longer than what is recorded is absent from the letter, which says
//! so; so is any body where there is no [`RetryLayer`](crate::retry::RetryLayer)
//! further in. As long as an attempt still sends the body, under an early answer,
//! the letter waits, and at last goes without: what the caller gets comes first.
//!
//! # The sink
//!
//! It works on tasks of the layer's own, so a sink that is slow, hangs or fails
//! does nothing to the requests: letters pend up to a bound, and beyond it are
//! lost, counted ([`DeadLetterHandle::lost`]) and told of
//! ([`Event::LettersLost`](crate::observe::Event::LettersLost)). Who would rather
//! wait asks for [`strict`](DeadLetterLayer::strict). Before the program ends,
//! [`flush`](DeadLetterHandle::flush).
//!
//! # What it costs
//!
//! A request that goes well costs a copy of its head and a few allocations; and
//! what is sent of its body stays recorded until its result is known, also where
//! no retry could follow.

mod body;
mod case;
mod failed;
#[cfg(feature = "dead-letter-file")]
#[cfg_attr(docsrs, doc(cfg(feature = "dead-letter-file")))]
pub mod file;
mod handle;
mod layer;
mod letter;
mod losses;
mod post;
mod service;
mod sink;

pub use self::{
    failed::has_failed,
    handle::DeadLetterHandle,
    layer::DeadLetterLayer,
    letter::{Absent, GrpcStatus, Letter, LetterAttempt, LetterBody, LetterResult},
    losses::{Loss, Losses, NotKept},
    service::{DeadLetter, ResponseFuture},
    sink::{ChannelSink, DeadLetterSink, SinkFn, sink_fn},
};

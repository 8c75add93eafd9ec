//! Batches that the upstream does not take whole go in halves.
//!
//! ```
//! use std::ops::Range;
//!
//! use http::StatusCode;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_weir::{
//!     BoxError,
//!     outcome::{Cause, Outcome, classify_fn},
//!     split::{Split, SplitLayer, merge_fn},
//! };
//!
//! #[derive(Clone)]
//! struct Upsert(Vec<u32>);
//!
//! impl Split for Upsert {
//!     type Kept = Self;
//!
//!     fn keep(&self) -> Self {
//!         self.clone()
//!     }
//!
//!     fn count(kept: &mut Self) -> usize {
//!         kept.0.len()
//!     }
//!
//!     fn part(kept: &Self, items: Range<usize>) -> Self {
//!         Self(kept.0[items].to_vec())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // A client that answers with a status and the number of records it stored.
//! let client = service_fn(|Upsert(records): Upsert| async move {
//!     Ok::<_, BoxError>(match records.len() {
//!         0..=100 => (StatusCode::OK, records.len()),
//!         _ => (StatusCode::PAYLOAD_TOO_LARGE, 0),
//!     })
//! });
//! let judge = classify_fn(|result: Result<&(StatusCode, usize), &BoxError>| match result {
//!     Ok((status, _)) => Outcome::success().with_cause(Cause::Status(*status)),
//!     Err(_) => Outcome::failed(),
//! });
//! let merge = merge_fn(|answers: Vec<(StatusCode, usize)>| {
//!     (StatusCode::OK, answers.iter().map(|(_, stored)| stored).sum())
//! });
//!
//! let mut client = ServiceBuilder::new()
//!     .layer(SplitLayer::new(judge, merge).split_on([StatusCode::UNPROCESSABLE_ENTITY]))
//!     .service(client);
//! let answer = client.ready().await?.call(Upsert((0..512).collect())).await?;
//! assert_eq!(answer, (StatusCode::OK, 512));
//! # Ok(())
//! # }
//! ```
//!
//! # When
//!
//! | answer | what is done |
//! |---|---|
//! | 413; gRPC: that the request was [too large](Split::encoded_len) | halved, down to the single item that is too large |
//! | what [`split_on`](SplitLayer::split_on) names, such as 422 | halved, down to the items that are to blame |
//! | 429, 503 and their kind, as often as [`refusals`](SplitLayer::refusals) says | halved; ends with the first single item that is refused |
//! | anything else | the last word on its items |
//!
//! Nothing is sent in parts that may have been done as a whole, unless the request
//! [is safe](Split::is_safe) to repeat: also where the answer says that nothing was
//! done, if the retries beneath made an attempt before that may have been processed.
//!
//! A request that is not split costs what its [`Split::keep`] does, and the caller
//! gets its result unchanged.
//!
//! # In how many requests
//!
//! Parts go in the order of the items, and one after the other
//! ([`concurrency`](SplitLayer::concurrency)). A size that was too large is not
//! tried again at once: 512 records against a limit of 100 take 14 requests,
//! 4,096 of them 101; by plain halving 15 and 127. A bad item among 64 takes 12 more.
//!
//! # What comes back
//!
//! If all parts went well, what [`Merge`] makes of their answers. Otherwise a
//! [`PartialFailure`], which says which items were not delivered, and holds the
//! answers of all: what was delivered is delivered.
//!
//! # Where it goes
//!
//! Outside of [`RetryLayer`](crate::retry) and [`Weir`](crate::Weir): each part is
//! a request of its own there, with its own attempts, its own slot, and a
//! `deadline` of the layer's for itself. For a deadline over all parts, put a
//! [`Deadline`](crate::Deadline) into the request where it has extensions. What
//! writes down requests that failed goes beneath as well: it then has the item
//! that failed, and not the whole batch.

mod future;
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub mod json;
mod layer;
mod merge;
mod oversize;
mod plan;
mod report;
mod request;
mod service;
mod sizing;
#[cfg(feature = "tonic")]
mod status;
#[cfg(test)]
mod tests;

#[cfg(feature = "config")]
pub use self::layer::SplitHandle;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use self::status::StatusErrors;
pub use self::{
    future::ResponseFuture,
    layer::SplitLayer,
    merge::{Merge, MergeFn, Unmerged, merge_fn},
    report::{Answer, Failure, PartialFailure, Parts, Undelivered},
    request::Split,
    service::SplitService,
};

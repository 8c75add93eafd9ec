//! Requests whose bodies hold items as JSON, and answers that do.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use http::StatusCode;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::{
//!     Weir,
//!     split::{PartialFailure, SplitLayer, json::{CollectLayer, Items}},
//! };
//!
//! let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! let mut client = ServiceBuilder::new()
//!     .layer(SplitLayer::json().split_on([StatusCode::UNPROCESSABLE_ENTITY]))
//!     .layer(CollectLayer::new(1 << 20))
//!     .layer(Weir::http().bulk())
//!     .service(client);
//!
//! let records: Vec<u32> = (0..512).collect();
//! let request = http::Request::post("http://index.internal/upsert")
//!     .header("content-type", "application/json")
//!     .body(Items::array_of(&records)?)?;
//! match client.ready().await?.call(request).await {
//!     Ok(response) => println!("{:?}", response.body()),
//!     Err(error) => match error.downcast::<PartialFailure>() {
//!         Ok(partial) => println!("not taken: {:?}", partial.failures()),
//!         Err(error) => return Err(error),
//!     },
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A part has the head of the whole request, with its extensions, but for what
//! tells of the whole body: `Content-Length`, the digests (RFC 9530, RFC 3230,
//! `Content-MD5`) and signatures (RFC 9421) are taken away, and of an
//! `Idempotency-Key` it has one derived, `KEY-0-256` for items 0 to 255. A key that
//! goes in another header has to be [named](KeyHeader), unless the retries beneath
//! know of it.
//!
//! Whether it is safe to send items twice is told by the method and by the
//! [`Idempotent`](crate::outcome::Idempotent) extension.

mod arrays;
mod collect;
mod items;
mod request;
#[cfg(test)]
mod tests;

#[cfg(feature = "idempotency")]
pub(crate) use self::request::PartOf;
pub use self::{
    arrays::JsonArrays,
    collect::{Collect, CollectFuture, CollectLayer},
    items::Items,
    request::{KeptItems, KeyHeader},
};

//! Which requests have failed.

use std::sync::Arc;

use http::{request, response};

use super::letter::grpc_code;
use crate::{BoxError, outcome::GrpcCode};

/// Tells whether a request has failed, by its head and by what came of it.
pub(super) type Judge =
    Arc<dyn Fn(&request::Parts, Result<&response::Parts, &BoxError>) -> bool + Send + Sync>;

/// Whether a request has failed for its caller: every error; HTTP statuses from
/// 400 on; and for gRPC requests a status in the response's headers that is not
/// OK.
///
/// What the default is, for closures of your own to build upon. A gRPC response
/// that begins well and has its status in the trailers has not failed as far as
/// this goes: its head is all that is looked at.
///
/// ```
/// use tower_weir::dead_letter::{DeadLetterLayer, has_failed, sink_fn};
///
/// // A 404 is an answer to a query.
/// let layer = DeadLetterLayer::new(sink_fn(|_| async { Ok(()) })).failed(|request, result| {
///     let missing = result.is_ok_and(|response| response.status == 404);
///     has_failed(request, result) && !missing
/// });
/// # let _ = layer;
/// ```
pub fn has_failed(request: &request::Parts, result: Result<&response::Parts, &BoxError>) -> bool {
    let Ok(response) = result else {
        return true;
    };
    let code = grpc_code(&request.headers, &response.headers);
    response.status.as_u16() >= 400 || code.is_some_and(|code| code != GrpcCode::Ok)
}

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, header};

/// What a request speaks. It decides how the answer is read and how often the
/// request may be repeated.
///
/// The *request's* content type decides, because an error has none, and neither
/// has a proxy's 503. One stack can so serve HTTP and gRPC side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// Plain HTTP, or anything that is not gRPC.
    #[default]
    Http,
    /// gRPC: the content type is `application/grpc`, with any suffix.
    Grpc,
}

impl Protocol {
    /// Reads the protocol off a request's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        match content_type(headers).is_some_and(is_grpc) {
            true => Self::Grpc,
            false => Self::Http,
        }
    }
}

/// The first content type. Each request asks, and most have few headers: names are
/// compared faster than one is hashed.
fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    const FEW: usize = 8;
    if headers.len() > FEW {
        return headers.get(header::CONTENT_TYPE);
    }
    let mut headers = headers.iter();
    let (_, value) = headers.find(|(name, _)| *name == header::CONTENT_TYPE)?;
    Some(value)
}

/// Whether a content type is gRPC's: `application/grpc`, alone or followed by
/// `+proto`, `-web`, `;charset` and the like.
pub(crate) fn is_grpc(content_type: &HeaderValue) -> bool {
    let Some((kind, rest)) = content_type.as_bytes().split_at_checked(12) else {
        return false;
    };
    let Some((name, suffix)) = rest.split_at_checked(4) else {
        return false;
    };
    // What tells it from other types comes first.
    name.eq_ignore_ascii_case(b"grpc")
        && matches!(suffix.first(), None | Some(b'+' | b';' | b'-' | b' '))
        && kind.eq_ignore_ascii_case(b"application/")
}

/// A request extension: the caller's word that repeating the request does no
/// harm, whatever its method (an upsert by id, a query sent with POST).
///
/// ```
/// use tower_weir::outcome::Idempotent;
///
/// let mut request = http::Request::post("http://index.internal/upsert").body(())?;
/// request.extensions_mut().insert(Idempotent);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idempotent;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether a request may be repeated although the upstream may have acted on it
/// already: an idempotent method (RFC 9110 9.2.2), an `Idempotency-Key` header,
/// or the [`Idempotent`] extension.
pub fn is_safe_to_repeat(request: &http::request::Parts) -> bool {
    is_safe(&request.method, &request.extensions, |key| {
        request.headers.contains_key(key)
    })
}

/// The same for one whose headers are kept in another form: `has` tells whether a
/// header is among them.
pub(crate) fn is_safe(
    method: &Method,
    extensions: &Extensions,
    has: impl FnOnce(&HeaderName) -> bool,
) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || has(&IDEMPOTENCY_KEY)
        || extensions.get::<Idempotent>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_tells_grpc_apart() {
        for (value, expected) in [
            ("application/grpc", Protocol::Grpc),
            ("application/grpc+proto", Protocol::Grpc),
            ("Application/gRPC; x=y", Protocol::Grpc),
            ("application/grpc-web+proto", Protocol::Grpc),
            ("application/grpcish", Protocol::Http),
            ("application/json", Protocol::Http),
            ("application/grp", Protocol::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(Protocol::of(&headers), expected, "{value}");
            for n in 0..20 {
                let name = HeaderName::try_from(format!("x-{n}")).unwrap();
                headers.insert(name, HeaderValue::from_static("application/grpc"));
                assert_eq!(Protocol::of(&headers), expected, "{value} among {n}");
            }
        }
        assert_eq!(Protocol::of(&HeaderMap::new()), Protocol::Http);
    }

    #[test]
    fn a_key_or_the_callers_word_makes_post_safe() {
        let with = |method: &str| {
            let request = http::Request::builder().method(method).body(()).unwrap();
            request.into_parts().0
        };
        let post = || with("POST");
        assert!(!is_safe_to_repeat(&post()));
        let mut keyed = post();
        keyed
            .headers
            .insert("idempotency-key", HeaderValue::from_static("7"));
        assert!(is_safe_to_repeat(&keyed));
        let mut promised = post();
        promised.extensions.insert(Idempotent);
        assert!(is_safe_to_repeat(&promised));
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_safe_to_repeat(&with(method)), "{method}");
        }
        for method in ["PATCH", "CONNECT", "PURGE"] {
            assert!(!is_safe_to_repeat(&with(method)), "{method}");
        }
    }
}

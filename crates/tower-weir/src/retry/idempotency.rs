use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, Method, request};
use sha2::{Digest, Sha256};
use uuid::Builder;

#[cfg(feature = "json")]
use crate::split::json::PartOf;

type Derive = Arc<dyn Fn(&request::Parts) -> Option<HeaderValue> + Send + Sync>;

/// Where the key comes from that tells an upstream that two requests are one.
///
/// A layer [that is given it](super::RetryPolicy::idempotency_key) puts a key
/// into each request whose method is not idempotent and that has none yet: one
/// key for all attempts of a request. The request then counts as safe to repeat,
/// so the upstream must keep to it: do what a key names once, and answer the
/// repetition with the first one's answer
/// (draft-ietf-httpapi-idempotency-key-header). The key is sent as it is, without
/// the quotes that the draft asks for and most servers do not.
///
/// ```
/// use http::HeaderValue;
/// use tower_weir::retry::{IdempotencyKey, RetryLayer};
///
/// // The caller's loop may send the same document again in another request: a
/// // key of its content makes those one, too.
/// #[derive(Clone)]
/// struct Document(HeaderValue);
///
/// let layer = RetryLayer::http().idempotency_key(IdempotencyKey::derived(|head| {
///     Some(head.extensions.get::<Document>()?.0.clone())
/// }));
///
/// let content = b"{\"id\":7}";
/// let mut request = http::Request::post("http://index.internal/documents").body(())?;
/// let key = IdempotencyKey::of_content("model-3", content);
/// request.extensions_mut().insert(Document(key));
/// # let _ = layer;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone)]
pub struct IdempotencyKey {
    header: HeaderName,
    derive: Option<Derive>,
}

impl IdempotencyKey {
    /// A random UUID (version 4, RFC 9562 5.4) for each request, whatever the
    /// layer's seed: a key that comes again makes the upstream take a new request
    /// for an old one. It tells the
    /// attempts of one request to be the same, and nothing else.
    pub fn random() -> Self {
        Self::new(None)
    }

    /// What `derive` makes of a request's head, extensions included; a request
    /// for which it has no key gets none. The parts that
    /// `SplitLayer::json` makes of a batch have its head: each gets `KEY-0-256`,
    /// for items 0 to 255, in place of KEY.
    pub fn derived(
        derive: impl Fn(&request::Parts) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Some(Arc::new(derive)))
    }

    fn new(derive: Option<Derive>) -> Self {
        Self {
            header: HeaderName::from_static("idempotency-key"),
            derive,
        }
    }

    /// The header that carries the key. Default `idempotency-key`. Of a caller's
    /// own key in it, the parts that `SplitLayer::json` makes of a batch get one
    /// each, as of a derived one.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// A key for `content` at a `version`: SHA-256 (FIPS 180-4) over the
    /// version's length (8 bytes, big-endian), the version and the content, in
    /// 64 hexadecimal digits. The version is whatever else makes a request
    /// another one: of the model, of the schema, of the run.
    pub fn of_content(version: &str, content: &[u8]) -> HeaderValue {
        let mut hash = Sha256::new();
        // Without the length, content could be taken for more of the version.
        hash.update((version.len() as u64).to_be_bytes());
        hash.update(version);
        hash.update(content);
        let digits = hash.finalize();
        let digits = digits.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let digits: Vec<u8> = digits
            .map(|digit| b"0123456789abcdef"[usize::from(digit)])
            .collect();
        header_value(&digits)
    }

    /// The key that a request has.
    pub(super) fn of(&self, head: &request::Parts) -> Option<(HeaderName, HeaderValue)> {
        let value = head.headers.get(&self.header)?;
        Some((self.header.clone(), value.clone()))
    }

    /// Sees to it that a request has a key, if it needs one; whether it is safe
    /// to repeat for it.
    pub(super) fn apply(&self, head: &mut request::Parts) -> bool {
        let idempotent = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ];
        if head.headers.contains_key(&self.header) {
            #[cfg(feature = "json")]
            PartOf::own(head, &self.header);
            return true;
        }
        if idempotent.contains(&head.method) {
            return false;
        }
        let key = match &self.derive {
            Some(derive) => derive(head).and_then(|key| self.of_part(key, head)),
            None => Some(uuid(rand::random())),
        };
        let Some(key) = key else {
            return false;
        };
        head.headers.insert(self.header.clone(), key);
        true
    }

    /// The parts of a batch have one head, and what is derived of that would be one
    /// key for all of them: the upstream would do the first and drop the others.
    #[cfg(feature = "json")]
    fn of_part(&self, key: HeaderValue, head: &mut request::Parts) -> Option<HeaderValue> {
        PartOf::key(head, &self.header, key)
    }

    #[cfg(not(feature = "json"))]
    fn of_part(&self, key: HeaderValue, _: &mut request::Parts) -> Option<HeaderValue> {
        Some(key)
    }
}

fn uuid(random: [u8; 16]) -> HeaderValue {
    let uuid = Builder::from_random_bytes(random).into_uuid();
    header_value(uuid.hyphenated().to_string().as_bytes())
}

/// Digits, letters and hyphens are always a header's value.
fn header_value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey")
            .field("header", &self.header)
            .field("derived", &self.derive.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contents_key_is_the_sha_256_of_what_it_says() {
        // Computed apart.
        for (version, content, expected) in [
            (
                "",
                &b""[..],
                "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc",
            ),
            (
                "v1",
                b"content",
                "0b797fbfc49292f16cb80c85af3840acff4137154c392ae82c95d602dc968e13",
            ),
        ] {
            assert_eq!(IdempotencyKey::of_content(version, content), expected);
        }
        let key = IdempotencyKey::of_content;
        assert_ne!(key("a", b"bc"), key("ab", b"c"));
    }

    #[test]
    fn a_uuid_is_of_version_4_and_the_rfcs_variant() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}

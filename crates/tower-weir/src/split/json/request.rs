use std::{iter, ops::Range};

use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{self, Entry},
    request::Parts,
};

use super::Items;
use crate::{outcome::Idempotent, split::Split};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request extension: the header that carries the request's key, where that is
/// not `Idempotency-Key`, of which each part gets one of its own in any case.
///
/// The upstream takes what bears one key for one request: parts that share it would
/// be done once, and all but the first of them lost. Where the retries beneath are
/// [told of the header](crate::retry), it need not be named here.
///
/// ```
/// use http::HeaderName;
/// use tower_weir::split::json::{Items, KeyHeader};
///
/// let mut request = http::Request::post("http://index.internal/upsert")
///     .header("x-request-key", "batch-7")
///     .body(Items::array("[1,2]"))?;
/// request.extensions_mut().insert(KeyHeader(HeaderName::from_static("x-request-key")));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHeader(pub HeaderName);

/// Headers that tell of the whole body.
const OF_THE_BODY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("unencoded-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];

/// What is kept of a request over [`Items`]: its head, its text, and where the
/// items are once somebody has looked.
#[derive(Clone, Debug)]
pub struct KeptItems {
    head: Parts,
    items: Items,
    places: Vec<Range<usize>>,
}

impl Split for Request<Items> {
    type Kept = KeptItems;

    fn keep(&self) -> KeptItems {
        let (head, items) = self.clone().into_parts();
        KeptItems {
            head,
            items,
            places: Vec::new(),
        }
    }

    fn count(kept: &mut KeptItems) -> usize {
        kept.places = kept.items.places();
        if kept.places.len() > 1 {
            #[cfg(feature = "retry")]
            unrecorded(&mut kept.head);
        }
        kept.places.len()
    }

    fn part(kept: &KeptItems, items: Range<usize>) -> Self {
        let mut head = kept.head.clone();
        if items.len() == kept.places.len() {
            return Self::from_parts(head, kept.items.clone());
        }
        for name in &OF_THE_BODY {
            head.headers.remove(name);
        }
        let named = head.extensions.get::<KeyHeader>();
        let named = named.map(|KeyHeader(name)| name.clone());
        let named = named.filter(|name| *name != IDEMPOTENCY_KEY);
        for name in iter::once(IDEMPOTENCY_KEY).chain(named) {
            let Entry::Occupied(mut keys) = head.headers.entry(name) else {
                continue;
            };
            // What comes of a key is made of what a header may hold.
            match derived(keys.get(), &items) {
                Some(key) => drop(keys.insert(key)),
                None => drop(keys.remove_entry()),
            }
        }
        let body = kept.items.part(&kept.places[items.clone()]);
        #[cfg(feature = "idempotency")]
        head.extensions.insert(PartOf(items));
        Self::from_parts(head, body)
    }

    fn is_safe(kept: &KeptItems) -> bool {
        let method = &kept.head.method;
        method.is_safe()
            || matches!(*method, Method::PUT | Method::DELETE)
            || kept.head.extensions.get::<Idempotent>().is_some()
    }
}

/// A request extension: the items of a part. What further in makes a key of the
/// head makes the same of all parts.
#[cfg(feature = "idempotency")]
#[derive(Clone, Debug)]
pub(crate) struct PartOf(Range<usize>);

#[cfg(feature = "idempotency")]
impl PartOf {
    /// The key that a request gets in the header `name`, for the one that was made
    /// of its head: if it is a part, one of its own.
    pub(crate) fn key(
        head: &mut Parts,
        name: &HeaderName,
        key: HeaderValue,
    ) -> Option<HeaderValue> {
        let Some(Self(items)) = head.extensions.get() else {
            return Some(key);
        };
        let key = derived(&key, items);
        // A layer further in is not to do it once more.
        head.extensions.insert(KeyHeader(name.clone()));
        key
    }

    /// Sees to it that a part does not go under the key of the whole that it has in
    /// the header `name`.
    pub(crate) fn own(head: &mut Parts, name: &HeaderName) {
        let named = head.extensions.get::<KeyHeader>();
        let done = *name == IDEMPOTENCY_KEY || named.is_some_and(|KeyHeader(other)| other == name);
        if done || head.extensions.get::<Self>().is_none() {
            return;
        }
        let whole = head.headers.get(name).cloned();
        if let Some(key) = whole.and_then(|whole| Self::key(head, name, whole)) {
            head.headers.insert(name, key);
        }
    }
}

/// The parts are not recorded with the whole, whose body a retry layer would take
/// from the record for theirs. The record says no more than that they may have
/// been processed.
#[cfg(feature = "retry")]
fn unrecorded(head: &mut Parts) {
    if let Some(recorder) = head.extensions.remove::<crate::retry::Recorder>() {
        let host = crate::hosts::host_of(&head.uri, &head.headers).unwrap_or_default();
        recorder.begin(host.into(), tokio::time::Instant::now());
    }
}

/// The key of a part. The draft's key is a string of structured fields, in
/// quotes, which stay around it.
fn derived(key: &HeaderValue, items: &Range<usize>) -> Option<HeaderValue> {
    let key = key.as_bytes();
    let (key, quote) = match key.strip_suffix(b"\"") {
        Some(open) if key.len() > 1 => (open, "\""),
        _ => (key, ""),
    };
    let range = format!("-{}-{}{quote}", items.start, items.end);
    HeaderValue::from_bytes(&[key, range.as_bytes()].concat()).ok()
}

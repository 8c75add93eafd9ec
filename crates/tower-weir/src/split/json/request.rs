use std::ops::Range;

use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{self, Entry},
    request::Parts,
};

use super::Items;
use crate::{outcome::Idempotent, split::Split};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
        if let Entry::Occupied(mut keys) = head.headers.entry(IDEMPOTENCY_KEY) {
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
    /// The key of the part under one of the whole.
    pub(crate) fn key(&self, whole: &HeaderValue) -> Option<HeaderValue> {
        derived(whole, &self.0)
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

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Response, header};

use super::items::array_places;
use crate::outcome::HttpClassifier;
use crate::split::{Answer, Merge, SplitLayer, Unmerged};

/// Headers that tell of one part's body.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::ETAG,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
];

/// Merges answers whose bodies are JSON arrays, of one element for each item, say:
/// to one array, in the order of the items, under the first answer's head.
///
/// Answers that all have no body make one without a body. Others do not make a
/// whole: for answers of another shape, such as `{"upserted": 64}`, write a
/// [`Merge`] of your own over `Response<Bytes>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonArrays;

impl SplitLayer<HttpClassifier, JsonArrays> {
    /// For requests over [`Items`](super::Items) that are answered with JSON
    /// arrays. The service beneath answers with whole bodies, as
    /// [`CollectLayer`](super::CollectLayer) does.
    pub fn json() -> Self {
        Self::http(JsonArrays)
    }
}

impl Merge<Response<Bytes>> for JsonArrays {
    fn merge(
        &self,
        answers: Vec<Answer<Response<Bytes>>>,
    ) -> Result<Response<Bytes>, Unmerged<Response<Bytes>>> {
        let bodies = answers.iter().map(|answer| answer.response.body());
        let Some(body) = concat(bodies) else {
            return Err(Unmerged {
                answers,
                why: "an answer is not a JSON array".into(),
            });
        };
        let Some(first) = answers.into_iter().next() else {
            return Ok(Response::new(body));
        };
        let (mut head, _) = first.response.into_parts();
        forget_body(&mut head.headers);
        Ok(Response::from_parts(head, body))
    }
}

fn forget_body(headers: &mut HeaderMap) {
    for name in &OF_THE_BODY {
        headers.remove(name);
    }
}

fn concat<'a>(bodies: impl Iterator<Item = &'a Bytes> + Clone) -> Option<Bytes> {
    let empty = |body: &Bytes| body.iter().all(u8::is_ascii_whitespace);
    if bodies.clone().all(empty) {
        return Some(Bytes::new());
    }
    let mut text = BytesMut::new();
    for body in bodies {
        let places = array_places(body);
        let inner = match (places.first(), places.last()) {
            (Some(first), Some(last)) => &body[first.start..last.end],
            // Without elements; or no array.
            _ => serde_json::from_slice::<[(); 0]>(body)
                .map(|_| &[][..])
                .ok()?,
        };
        if !inner.is_empty() {
            text.put_u8(if text.is_empty() { b'[' } else { b',' });
            text.put_slice(inner);
        }
    }
    if text.is_empty() {
        text.put_u8(b'[');
    }
    text.put_u8(b']');
    Some(text.freeze())
}

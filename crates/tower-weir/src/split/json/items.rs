use std::{
    convert::Infallible,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use serde_json::value::RawValue;

/// A request's body that holds items as JSON: in an array, or one on each line
/// (NDJSON, also called JSON Lines).
///
/// What was given is sent as it is, down to the byte. It is parsed only when the
/// request is to be split; a body that is no array then is not split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    bytes: Bytes,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Array,
    Lines,
}

impl Items {
    /// The text of a JSON array.
    pub fn array(text: impl Into<Bytes>) -> Self {
        Self {
            bytes: text.into(),
            framing: Framing::Array,
        }
    }

    /// Lines of which each is a value; empty ones are none.
    pub fn lines(text: impl Into<Bytes>) -> Self {
        Self {
            bytes: text.into(),
            framing: Framing::Lines,
        }
    }

    /// A JSON array of these items.
    ///
    /// # Errors
    ///
    /// If one cannot be written as JSON.
    pub fn array_of<T: Serialize>(items: &[T]) -> Result<Self, serde_json::Error> {
        Ok(Self::array(serde_json::to_vec(items)?))
    }

    /// A line of JSON for each of these items.
    ///
    /// # Errors
    ///
    /// If one cannot be written as JSON.
    pub fn lines_of<T: Serialize>(items: &[T]) -> Result<Self, serde_json::Error> {
        let mut text = BytesMut::new().writer();
        for item in items {
            serde_json::to_writer(&mut text, item)?;
            text.get_mut().put_u8(b'\n');
        }
        Ok(Self::lines(text.into_inner()))
    }

    /// The text that is sent.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where each item is in the text; nothing if it is no array.
    pub(super) fn places(&self) -> Vec<Range<usize>> {
        match self.framing {
            Framing::Array => array_places(&self.bytes),
            Framing::Lines => line_places(&self.bytes),
        }
    }

    /// The items of these places, which follow each other.
    pub(super) fn part(&self, places: &[Range<usize>]) -> Self {
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return self.clone();
        };
        // What is between two items is between them in the part too.
        let inner = self.bytes.slice(first.start..last.end);
        let bytes = match self.framing {
            Framing::Array => {
                let mut text = BytesMut::with_capacity(inner.len() + 2);
                text.put_u8(b'[');
                text.put_slice(&inner);
                text.put_u8(b']');
                text.freeze()
            }
            Framing::Lines => inner,
        };
        Self { bytes, ..*self }
    }
}

/// Where the elements of an array are in its text.
pub(super) fn array_places(text: &[u8]) -> Vec<Range<usize>> {
    let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(text) else {
        return Vec::new();
    };
    let origin = text.as_ptr().addr();
    let place = |item: &&RawValue| {
        let start = item.get().as_ptr().addr() - origin;
        start..start + item.get().len()
    };
    items.iter().map(place).collect()
}

fn line_places(text: &[u8]) -> Vec<Range<usize>> {
    let mut end = 0;
    text.split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| {
            let start = end;
            end += line.len();
            let empty = line.iter().all(u8::is_ascii_whitespace);
            (!empty).then_some(start..end)
        })
        .collect()
}

impl Body for Items {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

use std::{collections::VecDeque, mem};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::{Account, NotReplayable, account::Charge};

/// So many frames are kept without counting what each takes beside its data:
/// less than the rest of a request takes anyway.
const FREE_FRAMES: usize = 64;

/// What was read of a body, and how much of it the present attempt has played.
#[derive(Debug)]
pub(super) struct Tape {
    pieces: VecDeque<Piece>,
    next: usize,
    bytes: usize,
    charge: Charge,
    /// The least length the body announced.
    announced: u64,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Recording,
    /// No other attempt will follow: what is played is forgotten.
    Last,
    Lost(NotReplayable),
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    // Boxed, or every frame would take as much room as a header map.
    Trailers(Box<HeaderMap>),
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        if let Some(data) = frame.data_ref() {
            return Some(Self::Data(data.clone()));
        }
        // There is no third kind of frame in http-body 1.
        let trailers = frame.trailers_ref()?;
        Some(Self::Trailers(Box::new(trailers.clone())))
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum(),
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(*trailers),
        }
    }
}

impl Tape {
    pub(super) fn new(account: &Account, announced: u64) -> Self {
        Self {
            pieces: VecDeque::new(),
            next: 0,
            bytes: 0,
            charge: account.open(),
            announced,
            mode: Mode::Recording,
        }
    }

    /// Why the beginning of the body is gone, if it is.
    pub(super) fn lost(&self) -> Option<NotReplayable> {
        match self.mode {
            Mode::Lost(reason) => Some(reason),
            Mode::Recording | Mode::Last => None,
        }
    }

    /// Whether all that was recorded has been played.
    pub(super) fn played(&self) -> bool {
        self.next == self.pieces.len()
    }

    /// The next recorded frame.
    pub(super) fn play(&mut self) -> Option<Frame<Bytes>> {
        if self.mode == Mode::Last {
            let piece = self.pieces.pop_front()?;
            self.forget(&piece);
            return Some(piece.into_frame());
        }
        let piece = self.pieces.get(self.next)?.clone();
        self.next += 1;
        Some(piece.into_frame())
    }

    /// Takes down a frame that has just been read, and so counts as played.
    pub(super) fn record(&mut self, frame: &Frame<Bytes>) {
        if self.mode != Mode::Recording {
            return;
        }
        if self.announced > self.charge.per_request() as u64 {
            // Why fill the memory up to the cap for a body that will pass it?
            return self.lose(NotReplayable::OverRequestCap);
        }
        let Some(piece) = Piece::of(frame) else {
            return;
        };
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        self.next += 1;
        if let Err(reason) = self.charge.grow(self.weight()) {
            self.lose(reason);
        }
    }

    /// Starts over from the first frame, for another attempt.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Keeps only what the present attempt has yet to play.
    pub(super) fn keep_no_more(&mut self) {
        if self.mode == Mode::Recording {
            self.mode = Mode::Last;
            for piece in self.pieces.drain(..mem::take(&mut self.next)) {
                self.bytes -= piece.len();
            }
            self.charge.shrink(self.weight());
        }
    }

    /// Forgets everything: the body cannot be sent again, for this `reason`.
    pub(super) fn lose(&mut self, reason: NotReplayable) {
        self.mode = Mode::Lost(reason);
        self.clear();
    }

    /// Forgets the frames.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.next = 0;
        self.bytes = 0;
        self.charge.shrink(0);
    }

    fn forget(&mut self, piece: &Piece) {
        self.bytes -= piece.len();
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        self.charge.shrink(self.weight());
    }

    /// What the tape counts for: its data, or what its frames take up beside
    /// their data, where that is more.
    fn weight(&self) -> usize {
        let counted = self.pieces.len().saturating_sub(FREE_FRAMES);
        self.bytes.max(counted * mem::size_of::<Piece>())
    }
}

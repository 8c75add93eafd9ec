use std::{fs, path::Path};

use tower_weir::{
    BoxError,
    dead_letter::{DeadLetterHandle, DeadLetterLayer, file::JsonlFile, sink_fn},
};

use crate::options::Options;

/// Where a letter goes of each request that finally failed.
#[derive(Clone, Debug)]
pub(crate) struct Letters {
    pub(crate) layer: DeadLetterLayer,
    wanted: bool,
}

impl Letters {
    pub(crate) fn open(options: &Options) -> Result<Self, BoxError> {
        if let (Some(input), Some(letters)) = (&options.input, &options.dead_letters)
            && same(input, letters)
        {
            return Err("--dead-letters would write to --input".into());
        }
        let layer = match &options.dead_letters {
            // an answer that comes too late after an interrupt is given up
            Some(path) => DeadLetterLayer::new(JsonlFile::open(path)?).on_cancel(true),
            None => DeadLetterLayer::new(sink_fn(|_| async { Ok(()) })).enabled(false),
        };
        Ok(Self {
            layer,
            wanted: options.dead_letters.is_some(),
        })
    }

    /// Whether anybody wants to know.
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted
    }

    pub(crate) fn handle(&self) -> DeadLetterHandle {
        self.layer.handle()
    }
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

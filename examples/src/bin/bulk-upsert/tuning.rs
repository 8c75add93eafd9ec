use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use tower_weir::{
    BoxError, Weir,
    config::{Running, Settings},
    weir::WeirHandle,
};

use crate::options::Options;

/// How the stack is set: by a file, or for bulk work under the ceiling that an
/// option names.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    file: Option<(PathBuf, Settings)>,
    ceiling: usize,
}

impl Tuning {
    pub(crate) fn open(options: &Options) -> Result<Self, BoxError> {
        let file = match &options.config {
            Some(path) => Some((path.clone(), read(path)?)),
            None => None,
        };
        let ceiling = match &file {
            Some((_, settings)) => settings.limiter.max,
            None => options.max_concurrency.get(),
        };
        Ok(Self { file, ceiling })
    }

    /// The highest limit: more batches need not be on their way at once.
    pub(crate) fn ceiling(&self) -> usize {
        self.ceiling
    }

    pub(crate) fn apply<C: Clone, M>(&self, weir: Weir<C, M>) -> Result<Weir<C, M>, BoxError> {
        Ok(match &self.file {
            Some((_, settings)) => weir.configured(settings)?,
            None => weir.bulk().ceiling(self.ceiling),
        })
    }

    /// Reads the file again at each SIGHUP, and sets the stack that runs by it. A
    /// file that is not good changes nothing.
    #[cfg(unix)]
    pub(crate) fn follow(&self, handle: WeirHandle) -> Result<(), BoxError> {
        use tokio::signal::unix::{SignalKind, signal};

        let Some((path, _)) = self.file.clone() else {
            return Ok(());
        };
        let running = Running::new().with(handle);
        let mut hangups = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let applied = read(&path).and_then(|settings| Ok(running.apply(&settings)?));
                let _ = match applied {
                    Ok(change) => writeln!(io::stderr(), "settings: change {change} applied"),
                    Err(error) => writeln!(io::stderr(), "settings: {error}"),
                };
            }
        });
        Ok(())
    }

    #[cfg(not(unix))]
    pub(crate) fn follow(&self, _: WeirHandle) -> Result<(), BoxError> {
        Ok(())
    }
}

fn read(path: &Path) -> Result<Settings, BoxError> {
    let named = |error: BoxError| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| named(error.into()))?;
    Ok(Settings::from_toml(&text).map_err(|error| named(error.into()))?)
}

use std::{
    error::Error,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::de::IgnoredAny;

use super::names::{followed, is_same, put_aside, with_suffix};

/// How much is read at once in search of the last line's beginning.
const BLOCK: u64 = 64 * 1024;

/// A file of lines, each a JSON object or array, to which one process at a time
/// appends.
///
/// Whoever reads the file finds whole lines, and at most one last line that is
/// not, if the writer was killed while it wrote that. Opening mends it: a last
/// line that is all there but for its end gets it, another one is cut off. A file
/// that ends with something else than a line that was begun is refused as it is.
///
/// The lock is on a second file beside it, whose name ends in `.lock` and which
/// stays. The system gives it up when the process ends, however it ends. It does
/// not keep readers away. A symbolic link is followed, and so has the lock of the
/// file that it leads to; a hard link has one of its own.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: File,
    length: u64,
    /// Whether a line was written in part, which has to be cut off first.
    torn: bool,
    lock: File,
}

/// Why a [`LineFile`] could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another one, of this process or another, has the file open.
    Locked(PathBuf),
    /// The file cannot be had.
    Io(PathBuf, io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(path) => write!(f, "{}: another process writes to it", path.display()),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Locked(_) => None,
            Self::Io(_, error) => Some(error),
        }
    }
}

impl LineFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// When another writer has it open, it cannot be had, or it is of another kind.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = followed(path.into());
        let failed = |error| OpenError::Io(path.clone(), error);
        // The lock first: who has it may put aside what was opened before.
        let lock = lock(&path)?.ok_or_else(|| OpenError::Locked(path.clone()))?;
        let mut file = append(&path).map_err(failed)?;
        let length = mend(&mut file).map_err(failed)?;
        let lines = Self {
            path,
            file,
            length,
            torn: false,
            lock,
        };
        lines.sync_folder();
        Ok(lines)
    }

    /// Appends a line, whose end is added. It is with the operating system then,
    /// and there if the process is killed; for the machine to be able to fail,
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// When it could not be written. Nothing of it stays in the file.
    pub fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.torn {
            self.cut()?;
        }
        // Others may have cut the file short, which would be undone with a bad line.
        self.length = self.file.metadata()?.len();
        line.push(b'\n');
        match self.file.write_all(&line) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.torn = true;
                // If it fails now it is tried before the next line.
                let _ = self.cut();
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.torn = false;
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Renames the file, and goes on with a new one: `letters.jsonl` becomes
    /// `letters.jsonl.1`, and the next time `letters.jsonl.2`. The name of a file
    /// that was put aside never changes again.
    ///
    /// # Errors
    ///
    /// When the file cannot be renamed or the new one made. Lines are appended to
    /// the old one then, as before.
    pub fn rotate(&mut self) -> io::Result<PathBuf> {
        self.sync()?;
        let last = put_aside(&self.path)?.pop().map_or(0, |(number, _)| number);
        let next = last.checked_add(1);
        let next =
            next.ok_or_else(|| io::Error::other("no number is left to put the file aside"))?;
        let aside = with_suffix(&self.path, &format!(".{next}"));
        fs::rename(&self.path, &aside)?;
        // Without a new one, the old one must keep its name.
        let back = |_: &_| drop(fs::rename(&aside, &self.path));
        self.file = append(&self.path).inspect_err(back)?;
        (self.length, self.torn) = (0, false);
        self.sync_folder();
        Ok(aside)
    }

    /// Whether the file is not, or no more, where it was: somebody has moved it away,
    /// or deleted it. What is appended to it goes wherever it is now. On systems other
    /// than Unix one that stands in its place is taken for it.
    pub fn is_gone(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(there) => !is_same(&self.file, &there),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Goes on with the file that is now where this one was, or a new one: for when
    /// it [is gone](Self::is_gone).
    ///
    /// # Errors
    ///
    /// As of [`open`](Self::open), the lock apart. Lines are appended to the old one
    /// then, as before.
    pub fn reopen(&mut self) -> io::Result<()> {
        let mut file = append(&self.path)?;
        self.length = mend(&mut file)?;
        self.file = file;
        self.torn = false;
        self.sync_folder();
        Ok(())
    }

    /// A new name is on the disk when its folder is.
    fn sync_folder(&self) {
        let parent = self.path.parent().filter(|path| *path != Path::new(""));
        if let Ok(folder) = File::open(parent.unwrap_or(Path::new("."))) {
            // Not every system can.
            let _ = folder.sync_all();
        }
    }

    /// How many bytes the file has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        // Closing it does the same, but not while a child process has it too.
        let _ = fs4::FileExt::unlock(&self.lock);
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)
}

/// The lock, unless another one has it.
fn lock(path: &Path) -> Result<Option<File>, OpenError> {
    let beside = with_suffix(path, ".lock");
    let failed = |error| OpenError::Io(beside.clone(), error);
    let file = append(&beside).map_err(failed)?;
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(Some(file)),
        Err(fs4::TryLockError::WouldBlock) => Ok(None),
        Err(fs4::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Sees to it that the file ends with a whole line; its length then.
fn mend(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let tail = tail(file, length)?;
    match tail.first() {
        None => return Ok(length),
        Some(b'{' | b'[') if serde_json::from_slice::<IgnoredAny>(&tail).is_ok() => {
            file.write_all(b"\n")?;
            return Ok(length + 1);
        }
        // A machine that failed may leave zeros where a line was to be.
        Some(b'{' | b'[' | 0) => {}
        Some(_) => {
            let error = "it ends with what is no line of JSON: another kind of file?";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    let length = length - tail.len() as u64;
    file.set_len(length)?;
    Ok(length)
}

/// What comes after the last line's end.
fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut from = length;
    while from > 0 {
        let size = from.min(BLOCK);
        from -= size;
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        (&*file).take(size).read_to_end(&mut block)?;
        let end = block.iter().rposition(|byte| *byte == b'\n');
        let start = end.map_or(0, |end| end + 1);
        tail.splice(..0, block.drain(start..));
        if end.is_some() {
            break;
        }
    }
    Ok(tail)
}

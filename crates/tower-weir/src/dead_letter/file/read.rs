use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::super::Letter;

/// The letters of a file, in the order in which they were written.
///
/// A last line that was not written to its end is passed over. A line within the
/// file that is no letter is an error, after which the next line comes. When the
/// file cannot be read on, the error that says so is the last item.
#[derive(Debug)]
pub struct Letters {
    file: BufReader<File>,
    path: PathBuf,
    number: u64,
    line: Vec<u8>,
    /// Whether there is nothing more to be had: a folder, or a broken disk, says
    /// the same each time.
    over: bool,
}

/// A line that is no letter, or cannot be read.
#[derive(Debug)]
pub struct LineError {
    path: PathBuf,
    number: u64,
    error: io::Error,
}

impl LineError {
    /// The line's number in the file, from 1.
    pub fn line(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, number) = (self.path.display(), self.number);
        write!(f, "{path}, line {number}: {}", self.error)
    }
}

impl Error for LineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl Letters {
    /// Opens the file. It may be written to meanwhile.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        Ok(Self {
            file: BufReader::new(File::open(path)?),
            path: path.to_owned(),
            number: 0,
            line: Vec::new(),
            over: false,
        })
    }

    /// The number of the line that the last letter was in, from 1.
    pub fn line(&self) -> u64 {
        self.number
    }

    fn read(&mut self) -> Option<io::Result<Letter>> {
        if self.over {
            return None;
        }
        self.line.clear();
        match self.file.read_until(b'\n', &mut self.line) {
            Ok(0) => return None,
            Ok(_) => self.number += 1,
            Err(error) => {
                self.over = true;
                return Some(Err(error));
            }
        }
        let whole = self.line.ends_with(b"\n");
        match serde_json::from_slice(&self.line) {
            Ok(letter) => Some(Ok(letter)),
            Err(_) if !whole => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}

impl Iterator for Letters {
    type Item = Result<Letter, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let letter = self.read()?;
        Some(letter.map_err(|error| LineError {
            path: self.path.clone(),
            number: self.number,
            error,
        }))
    }
}

//! What files are called, and which of them are one.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// As many links in a row are followed as Linux follows.
const MAX_LINKS: usize = 40;

/// A file and those that were [put aside](super::LineFile::rotate) of it, the oldest
/// first.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = followed(path.to_owned());
    let aside = put_aside(&path)?.into_iter();
    let mut files: Vec<_> = aside.map(|(_, file)| file).collect();
    if path.exists() {
        files.push(path);
    }
    Ok(files)
}

/// Where a path leads, over links, whether or not there is a file. Its folder is left
/// as it is: whatever it is called, the same files are in it. What is no file, such as
/// a device, is only had by its link: nothing is to be put beside it.
pub(super) fn followed(path: PathBuf) -> PathBuf {
    let mut there = path.clone();
    for links in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&there) else {
            let other = fs::metadata(&there).is_ok_and(|there| !there.is_file());
            return if links == 0 || other { path } else { there };
        };
        // Relative to the folder of the link; an absolute one stands for itself.
        there.pop();
        there.push(next);
        let folder = there
            .parent()
            .and_then(|folder| fs::canonicalize(folder).ok());
        if let (Some(folder), Some(name)) = (folder, there.file_name()) {
            there = folder.join(name);
        }
    }
    path
}

#[cfg(unix)]
pub(super) fn is_same(file: &File, there: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = |own: fs::Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
    file.metadata().is_ok_and(own)
}

#[cfg(not(unix))]
pub(super) fn is_same(_: &File, _: &fs::Metadata) -> bool {
    true
}

/// Those that were put aside, by their numbers.
pub(super) fn put_aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let Some(name) = path.file_name() else {
        return Ok(Vec::new());
    };
    let parent = path.parent().filter(|path| *path != Path::new(""));
    let mut found = Vec::new();
    for entry in fs::read_dir(parent.unwrap_or(Path::new(".")))? {
        let entry = entry?.file_name();
        let rest = entry
            .as_encoded_bytes()
            .strip_prefix(name.as_encoded_bytes());
        let digits = rest.and_then(|rest| rest.strip_prefix(b"."));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(number) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
            found.push((number, path.with_file_name(&entry)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

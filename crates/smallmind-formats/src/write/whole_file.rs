//! Files that appear under their name only when they are complete and on the disk.

use crate::error::FormatError;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file being written aside, in the folder where it is to appear. [`WholeFile::commit`] makes it durable and gives
/// it its name, replacing what was there; dropped without that, it is removed.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    aside: PathBuf,
    /// `None` only while `commit` or `drop` runs.
    file: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Starts writing what will be `path`.
    ///
    /// # Errors
    /// If `path` is a folder or names no file, or its folder cannot be written to.
    pub fn create(path: &Path) -> Result<WholeFile, FormatError> {
        let Some(name) = path.file_name() else {
            return Err(FormatError::file(
                path,
                "this names no file to write; give a path that ends in a file name",
            ));
        };
        if path.is_dir() {
            return Err(FormatError::file(path, "this is a folder; name the file to write inside it"));
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let mut aside = OsString::from(".");
            aside.push(name);
            aside.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
            let aside = path.with_file_name(aside);
            match OpenOptions::new().write(true).create_new(true).open(&aside) {
                Ok(file) => {
                    let file = Some(BufWriter::with_capacity(1 << 20, file));
                    return Ok(WholeFile { path: path.to_owned(), aside, file });
                }
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(FormatError::io(path, "write", e)),
            }
        }
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything to the disk, then gives the file its name.
    ///
    /// # Errors
    /// If the system refuses (a full disk, say); then nothing has changed under the final name. Only where the
    /// last step, syncing the folder, is refused, the complete file is there but might not survive a power loss.
    pub fn commit(mut self) -> Result<(), FormatError> {
        let error = |action| move |e| (action, e);
        let done = (|| {
            let Some(file) = self.file.take() else { return Ok(()) };
            let file = file.into_inner().map_err(|e| ("write", e.into_error()))?;
            file.sync_all().map_err(error("write"))?;
            drop(file);
            std::fs::rename(&self.aside, &self.path).map_err(error("rename the finished file to its name"))
        })();
        if let Err((action, cause)) = done {
            self.remove();
            return Err(FormatError::io(&self.path, action, cause));
        }
        sync_folder(&self.path).map_err(|e| FormatError::io(&self.path, "sync the folder of", e))
    }

    fn remove(&self) {
        // Nothing more can be done about a file that will not go; its name says what it is.
        drop(std::fs::remove_file(&self.aside));
    }

    fn inner(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))
    }
}

/// A rename is durable only when the folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems sync no folders.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        // One may be allowed to write a folder and not to read it.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner()?.flush()
    }
}

/// What is passed over and never written reads as zeros.
impl Seek for WholeFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner()?.seek(to)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Not flushed: what is left in the buffer is not wanted any more.
            drop(file.into_parts());
            self.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_at_commit_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, "old").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"new ").unwrap();
        file.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.write_all(b"content").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new content");
        assert_eq!(names(dir.path()), ["model.gguf"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = WholeFile::create(&dir.path().join("x")).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(file);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_failed_commit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = WholeFile::create(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(file.commit().is_err());
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn two_writers_of_one_path_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut first = WholeFile::create(&path).unwrap();
        let mut second = WholeFile::create(&path).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        second.commit().unwrap();
        first.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn refusals_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        assert!(WholeFile::create(dir.path()).unwrap_err().to_string().contains("this is a folder"));
        assert!(WholeFile::create(Path::new("/")).is_err());
        let error = WholeFile::create(&dir.path().join("no/x.gguf")).unwrap_err().to_string();
        assert!(error.ends_with("no/x.gguf: cannot write: no such file or folder"), "{error}");
    }
}

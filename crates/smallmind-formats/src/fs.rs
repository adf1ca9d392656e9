//! Opening, reading and removing files with errors that name the path. It may not follow what a file says, nor wait:
//! pipes and devices are refused before they can block.

use crate::error::FormatError;
use std::fs::{File, FileType, OpenOptions};
use std::io::Read;
use std::path::Path;

/// Opens a regular file for reading and tells its length in bytes.
///
/// # Errors
/// If the path does not exist, may not be read, or is a folder, pipe, socket or device.
pub fn open(path: &Path) -> Result<(File, u64), FormatError> {
    let io = |e| FormatError::io(path, "open", e);
    // Before opening, as opening a device can have effects; and after, as the path can change in between.
    require_regular(path, std::fs::metadata(path).map_err(io)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe put in the file's place must not block us; regular files ignore the flag.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    require_regular(path, metadata.file_type())?;
    Ok((file, metadata.len()))
}

fn require_regular(path: &Path, kind: FileType) -> Result<(), FormatError> {
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(FormatError::file(path, "this is a folder; name the model file inside it"));
    }
    Err(FormatError::file(
        path,
        format!("this is {}, not a regular file; give the path of a file", kind_name(kind)),
    ))
}

#[cfg(unix)]
fn kind_name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}

#[cfg(not(unix))]
fn kind_name(_kind: FileType) -> &'static str {
    "a device or pipe"
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and if the file is longer than `limit`.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, FormatError> {
    let (file, len) = open(path)?;
    let too_long =
        || FormatError::file(path, format!("the file is longer than the {limit} bytes that are read"));
    if len > limit as u64 {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, to see a file that grew since its length was asked for.
    let mut bounded = file.take((limit as u64).saturating_add(1));
    bounded.read_to_end(&mut bytes).map_err(|e| FormatError::io(path, "read", e))?;
    if bytes.len() > limit {
        return Err(too_long());
    }
    Ok(bytes)
}

/// Reads a whole regular file of at most `limit` bytes of UTF-8.
///
/// # Errors
/// As [`read`], and if the bytes are not UTF-8.
pub fn read_to_string(path: &Path, limit: usize) -> Result<String, FormatError> {
    String::from_utf8(read(path, limit)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        FormatError::file(path, format!("the file is not UTF-8 text (byte {at}); save it as UTF-8"))
    })
}

/// Makes a folder and those above it; one that is there already is fine.
///
/// # Errors
/// If the system refuses.
pub fn create_dir_all(path: &Path) -> Result<(), FormatError> {
    std::fs::create_dir_all(path).map_err(|e| FormatError::io(path, "make the folder", e))
}

/// Removes a file.
///
/// # Errors
/// If it is not there or the system refuses.
pub fn remove_file(path: &Path) -> Result<(), FormatError> {
    std::fs::remove_file(path).map_err(|e| FormatError::io(path, "remove", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_the_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nothing.gguf");
        let text = open(&missing).unwrap_err().to_string();
        assert!(text.ends_with("nothing.gguf: cannot open: no such file or folder"), "{text}");
        let text = open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("this is a folder"), "{text}");
        #[cfg(unix)]
        {
            let text = open(Path::new("/dev/zero")).unwrap_err().to_string();
            assert!(text.contains("this is a device"), "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let text = open(&path).unwrap_err().to_string();
        assert!(text.contains("this is a pipe"), "{text}");
    }

    #[test]
    fn reading_stops_at_the_limit_and_at_bad_utf8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert_eq!(read_to_string(&path, 4).unwrap(), "four");
        assert!(read(&path, 3).unwrap_err().to_string().contains("longer than the 3 bytes"));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read_to_string(&path, 9).unwrap_err().to_string().contains("not UTF-8 text (byte 2)"));
    }

    #[test]
    fn folders_are_made_and_files_removed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_dir_all(&inner).unwrap();
        create_dir_all(&inner).unwrap();
        let path = inner.join("x");
        std::fs::write(&path, b"").unwrap();
        remove_file(&path).unwrap();
        assert!(remove_file(&path).unwrap_err().to_string().contains("no such file"));
    }
}

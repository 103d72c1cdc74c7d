//! The unix socket: taken over from a dead agent, never from a live one.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Owner and group may ask; the group is root's until an operator changes it.
const MODE: u32 = 0o660;

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers on it.
    #[error("another agent answers on {}; stop it, or choose another --run-dir", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else of that name.
    #[error("{} is no socket; remove it, or choose another --run-dir", path.display())]
    NoSocket {
        /// What ought to be the socket.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error(
        "cannot open the admin socket {}; run lb as root, or choose another --run-dir",
        path.display()
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: OwnFile,
}

impl Socket {
    /// Listens on `path`, whose directory is created where it is missing.
    ///
    /// The socket appears under its name with its final mode: it is bound
    /// beside it and renamed over a dead agent's. Has to be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// A live agent has the socket, something else has its name, or the
    /// operating system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        ensure_free(path)?;
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let named = fs::set_permissions(&fresh, Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&fresh, path))
            .and_then(|()| OwnFile::of(path));
        match named {
            Ok(file) => Ok(Self { listener, file }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = fs::remove_file(&fresh);
                Err(failed(error))
            }
        }
    }

    pub(super) fn into_parts(self) -> (UnixListener, OwnFile) {
        (self.listener, self.file)
    }
}

/// Refuses where somebody answers on `path`, or where it is no socket.
fn ensure_free(path: &Path) -> Result<(), BindError> {
    let path_owned = || path.to_owned();
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket { path: path_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            let path = path_owned();
            return Err(BindError::Io { path, source });
        }
    }
    match net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path_owned() }),
        // Nobody listens any more: left behind by an agent that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => {
            let path = path_owned();
            Err(BindError::Io { path, source })
        }
    }
}

/// The name in the file system, removed at the end unless another agent has
/// taken it over.
#[derive(Debug)]
pub(super) struct OwnFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let Ok(metadata) = fs::symlink_metadata(&self.path) else {
            return;
        };
        if (metadata.dev(), metadata.ino()) == (self.device, self.inode) {
            // Gone already, or the directory is: nothing is left to mend.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn owner_and_group_may_ask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/lb.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = Socket::bind(&path).unwrap();
        assert!(net::UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn the_socket_of_a_live_agent_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        let first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(net::UnixStream::connect(&path).is_ok());
        drop(first);
        assert!(Socket::bind(&path).is_ok());
    }

    #[tokio::test]
    async fn a_file_of_the_socket_s_name_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::NoSocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_another_agent_took_over_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        let first = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path).unwrap();
        drop(first);
        assert!(net::UnixStream::connect(&path).is_ok());
    }
}

//! The file that keeps a stream's cursor between runs: one line, `EPOCH:SEQUENCE`, replaced as a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use elph_proto::v1::Cursor;

use crate::{cli::value, failure::Failure, settings::read_small};

/// The file.
#[derive(Debug)]
pub(crate) struct ResumeFile {
    path: PathBuf,
    saved: Option<Cursor>,
}

impl ResumeFile {
    /// The file and the cursor in it; none if there is no file yet.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() || path.is_dir() {
            return Err(Failure::Usage(format!("--resume {shown}: cannot be a file there")));
        }
        if !path.exists() {
            return Ok(Self { path: path.to_owned(), saved: None });
        }
        let content = read_small(path).map_err(Failure::Local)?;
        let cursor = value::cursor(&String::from_utf8_lossy(&content));
        let cursor =
            cursor.ok_or_else(|| Failure::Usage(format!("--resume {shown}: holds no cursor (EPOCH:SEQUENCE); remove it to start anew")))?;
        Ok(Self { path: path.to_owned(), saved: Some(cursor) })
    }

    /// The cursor in the file.
    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        self.saved.as_ref()
    }

    /// Replaces it, if it is another.
    pub(crate) fn save(&mut self, cursor: &Cursor) -> Result<(), Failure> {
        if self.saved.as_ref() == Some(cursor) {
            return Ok(());
        }
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let new = self.path.with_file_name(name);
        let write = || -> io::Result<()> {
            fs::write(&new, format!("{}:{}\n", cursor.epoch, cursor.sequence))?;
            fs::rename(&new, &self.path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&new);
            return Err(Failure::Local(format!("cannot keep the cursor in {}: {error}", self.path.display())));
        }
        self.saved = Some(cursor.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_comes_back_and_a_broken_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut file = ResumeFile::open(&path).unwrap();
        assert_eq!(file.cursor(), None);
        let cursor = Cursor { epoch: "e".into(), sequence: 42 };
        file.save(&cursor).unwrap();
        assert_eq!(ResumeFile::open(&path).unwrap().cursor(), Some(&cursor));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        fs::write(&path, "garbage").unwrap();
        assert_eq!(ResumeFile::open(&path).unwrap_err().exit(), 2);
        assert_eq!(ResumeFile::open(&folder.path().join("no/such/file")).unwrap_err().exit(), 2);
    }
}

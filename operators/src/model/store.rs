//! Finds model files in a folder, and gives each its version: a hash of its bytes.
//!
//! ```text
//!   models/
//!     mlp-16.onnx               the model `mlp-16`
//!     anomaly-32/               the model `anomaly-32`, in versions
//!       9/model.onnx
//!       10/model.onnx           the live one: 10 comes after 9
//! ```
//!
//! The live version is the last folder in *natural order*: runs of digits compare as numbers, everything else as bytes (`v9` before
//! `v10`, `1.9.3` before `1.10.0`). The order knows nothing of pre-releases: `2.0-rc1` comes after `2.0`. A folder without a
//! `model.onnx` is no version, and is told as a fault.
//!
//! Nothing outside the folder is ever opened. Names are [model ids](is_model_id), symbolic links may lead anywhere inside the folder
//! and nowhere else, and only regular files are read, up to a bounded size. Entries that begin with a dot and files of other endings
//! are passed over. What cannot be served is told with a path and a reason, and does not stop the rest.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ModelError, ModelFile, is_model_id};

/// The largest model file that is read unless told otherwise: 2 GiB, which is as much as the format can hold.
pub const BYTES_MAX: u64 = 2 << 30;

/// The name of the file in a version's folder.
const MODEL_FILE: &str = "model.onnx";

/// The ending of a model file that stands alone.
const ENDING: &str = ".onnx";

/// What a folder of models holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The live file of each model, sorted by id.
    pub files: Vec<ModelFile>,
    /// What was found and can't be served, sorted by path.
    pub faults: Vec<Fault>,
}

/// Something in the folder that can't be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The model that is unavailable because of it, if it is one's live version that is at fault.
    pub id: Option<String>,
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Finds the live file of each model in `folder`, and hashes it. A file of more than `bytes_max` bytes is a fault.
///
/// # Errors
///
/// If the folder itself can't be read.
pub fn find(folder: &Path, bytes_max: u64) -> Result<Found, ModelError> {
    let unreadable = |error: io::Error| ModelError::Store {
        path: folder.display().to_string(),
        reason: error.to_string(),
    };
    let store = Store { root: folder.canonicalize().map_err(unreadable)?, bytes_max };
    let mut found = Found::default();
    for (id, forms) in forms(folder, &mut found.faults).map_err(unreadable)? {
        match store.live(&id, &forms, &mut found.faults) {
            Ok(file) => found.files.push(file),
            Err((path, reason)) => found.faults.push(Fault { id: Some(id), path, reason }),
        }
    }
    found.faults.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

/// Reads a model file whole, and sees that it is still the file that was found.
pub(crate) fn read(file: &ModelFile, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    let refuse = |reason: String| ModelError::Load { path: file.path.display().to_string(), reason };
    let opened = File::open(&file.path).map_err(|error| refuse(error.to_string()))?;
    let mut bytes = Vec::new();
    opened
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(refuse(too_large(bytes_max)));
    }
    let version = version(&blake3::hash(&bytes));
    if version != file.version {
        return Err(refuse(format!(
            "the file has changed: version {} was found, and it now holds {version}; restart to serve it",
            file.version
        )));
    }
    Ok(bytes)
}

/// The version that a hash stands for.
fn version(hash: &blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

fn too_large(bytes_max: u64) -> String {
    format!("the file is larger than the {bytes_max} bytes allowed")
}

/// A path, and why nothing there can be served.
type Refusal = (PathBuf, String);

/// The places where a model was found: more than one is too many.
#[derive(Debug, Default)]
struct Forms {
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
}

/// The models in the folder and the places of each. Names that no model may have are faults.
fn forms(folder: &Path, faults: &mut Vec<Fault>) -> io::Result<BTreeMap<String, Forms>> {
    let mut models = BTreeMap::<String, Forms>::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let alone = name.ends_with(ENDING.as_bytes()) && !path.is_dir();
        if !alone && (name.starts_with(b".") || !leads_to_folder(&path)) {
            continue;
        }
        let id = if alone { &name[..name.len() - ENDING.len()] } else { name };
        let id = match std::str::from_utf8(id) {
            Ok(id) if is_model_id(id.as_bytes()) => id.to_owned(),
            _ => {
                faults.push(Fault { id: None, path, reason: not_an_id("a model") });
                continue;
            }
        };
        let forms = models.entry(id).or_default();
        if alone {
            forms.file = Some(path);
        } else {
            forms.folder = Some(path);
        }
    }
    Ok(models)
}

/// The folder of models.
struct Store {
    /// Its canonical path.
    root: PathBuf,
    bytes_max: u64,
}

impl Store {
    /// The live file of a model.
    fn live(&self, id: &str, forms: &Forms, faults: &mut Vec<Fault>) -> Result<ModelFile, Refusal> {
        let (label, path) = match forms {
            Forms { file: Some(file), folder: Some(folder) } => {
                let other = folder.display();
                return Err((file.clone(), format!("{other} is the same model: remove one of the two")));
            }
            Forms { file: Some(file), folder: None } => (String::new(), file.clone()),
            Forms { folder: Some(folder), .. } => self.live_version(folder, faults)?,
            Forms { file: None, folder: None } => unreachable!("a model is listed where it was found"),
        };
        let (version, bytes) = self.hash(&path).map_err(|reason| (path.clone(), reason))?;
        Ok(ModelFile {
            id: id.to_owned(),
            label,
            version,
            path,
            bytes,
            output: None,
            inputs: std::collections::BTreeMap::new(),
        })
    }

    /// The name and the file of the last version in a model's folder.
    fn live_version(&self, folder: &Path, faults: &mut Vec<Fault>) -> Result<(String, PathBuf), Refusal> {
        let refuse = |reason: String| (folder.to_owned(), reason);
        self.inside(folder).map_err(refuse)?;
        let entries = fs::read_dir(folder)
            .and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>)
            .map_err(|error| refuse(error.to_string()))?;
        let mut versions = Vec::new();
        for path in entries.iter().map(DirEntry::path) {
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") || !leads_to_folder(&path) {
                continue;
            }
            let file = path.join(MODEL_FILE);
            match name.to_str().filter(|name| is_model_id(name.as_bytes())) {
                None => faults.push(Fault { id: None, path, reason: not_an_id("a version") }),
                Some(_) if file.symlink_metadata().is_err() => {
                    faults.push(Fault {
                        id: None,
                        path,
                        reason: format!("the folder holds no {MODEL_FILE}"),
                    });
                }
                Some(name) => versions.push((name.to_owned(), file)),
            }
        }
        versions.into_iter().max_by(|(left, _), (right, _)| natural_order(left, right)).ok_or_else(|| {
            refuse(format!("the folder holds no version: put the model at VERSION/{MODEL_FILE}"))
        })
    }

    /// The version and the size of the file at `path`.
    fn hash(&self, path: &Path) -> Result<(String, u64), String> {
        self.inside(path)?;
        // Asked before it is opened: to open a pipe would wait for its writer.
        let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a regular file".to_owned());
        }
        if metadata.len() > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(file.take(self.bytes_max.saturating_add(1)))
            .map_err(|error| error.to_string())?;
        if hasher.count() > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        Ok((version(&hasher.finalize()), hasher.count()))
    }

    /// Sees that a path, with its symbolic links followed, stays in the folder of models.
    fn inside(&self, path: &Path) -> Result<(), String> {
        let real = path.canonicalize().map_err(|error| error.to_string())?;
        if real.starts_with(&self.root) {
            return Ok(());
        }
        Err("a symbolic link leads out of the model folder: copy the file instead".to_owned())
    }
}

/// Whether this is a folder, a link to one, or a link to nothing, which is told rather than passed over.
fn leads_to_folder(path: &Path) -> bool {
    path.is_dir() || (path.is_symlink() && !path.exists())
}

fn not_an_id(of: &str) -> String {
    format!("the name is not that of {of}: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot")
}

/// Compares names so that runs of digits count as numbers, whatever their length.
fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut rest_left, mut rest_right) = (left.as_bytes(), right.as_bytes());
    while !rest_left.is_empty() && !rest_right.is_empty() {
        let (run_left, run_right) = (run(rest_left), run(rest_right));
        let by_run = if run_left[0].is_ascii_digit() && run_right[0].is_ascii_digit() {
            let (number_left, number_right) = (without_zeros(run_left), without_zeros(run_right));
            number_left.len().cmp(&number_right.len()).then_with(|| number_left.cmp(number_right))
        } else {
            run_left.cmp(run_right)
        };
        if by_run.is_ne() {
            return by_run;
        }
        (rest_left, rest_right) = (&rest_left[run_left.len()..], &rest_right[run_right.len()..]);
    }
    // Equal but for a tail or for leading zeros.
    rest_left.len().cmp(&rest_right.len()).then_with(|| left.cmp(right))
}

/// The digits that `name` begins with, or else what comes before its first digit.
fn run(name: &[u8]) -> &[u8] {
    let digits = name[0].is_ascii_digit();
    let end = name.iter().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(name.len());
    &name[..end]
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// A folder with these files, and whether each path is given as it is in the folder.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    /// Id, label and path of each file that is found.
    fn files(folder: &tempfile::TempDir) -> Vec<(String, String, String)> {
        let found = find(folder.path(), BYTES_MAX).unwrap();
        let path = |file: &ModelFile| file.path.strip_prefix(folder.path()).unwrap().display().to_string();
        found.files.iter().map(|file| (file.id.clone(), file.label.clone(), path(file))).collect()
    }

    /// Path, id and reason of each fault.
    fn faults(folder: &tempfile::TempDir, bytes_max: u64) -> Vec<(String, Option<String>, String)> {
        let found = find(folder.path(), bytes_max).unwrap();
        let path = |fault: &Fault| fault.path.strip_prefix(folder.path()).unwrap().display().to_string();
        found.faults.into_iter().map(|fault| (path(&fault), fault.id, fault.reason)).collect()
    }

    fn live(id: &str, label: &str, path: &str) -> (String, String, String) {
        (id.to_owned(), label.to_owned(), path.to_owned())
    }

    #[test]
    fn models_are_found_in_both_forms_and_sorted() {
        let folder = folder(&[
            "z.onnx",
            "b/1/model.onnx",
            "a.onnx",
            "README.md",
            ".git/1/model.onnx",
            "b/.tmp/model.onnx",
        ]);
        assert_eq!(
            files(&folder),
            [live("a", "", "a.onnx"), live("b", "1", "b/1/model.onnx"), live("z", "", "z.onnx")]
        );
        assert_eq!(faults(&folder, BYTES_MAX), []);
    }

    #[test]
    fn the_live_version_is_the_last_in_natural_order() {
        let folder = folder(&[
            "m/9/model.onnx",
            "m/10/model.onnx",
            "m/1/model.onnx",
            "n/v1.9.3/model.onnx",
            "n/v1.10.0/model.onnx",
        ]);
        assert_eq!(
            files(&folder),
            [live("m", "10", "m/10/model.onnx"), live("n", "v1.10.0", "n/v1.10.0/model.onnx")]
        );
    }

    #[test]
    fn a_version_is_the_hash_of_the_bytes_and_of_nothing_else() {
        let folder = folder(&["a.onnx"]);
        fs::create_dir_all(folder.path().join("b/7")).unwrap();
        fs::write(folder.path().join("b/7/model.onnx"), "a.onnx").unwrap();
        let versions: Vec<String> =
            find(folder.path(), BYTES_MAX).unwrap().files.into_iter().map(|file| file.version).collect();
        assert_eq!(versions[0], blake3::hash(b"a.onnx").to_hex()[..16]);
        assert_eq!(versions[0], versions[1]);
    }

    #[test]
    fn a_version_folder_without_a_model_is_told_and_the_one_before_it_serves() {
        let folder = folder(&["m/1/model.onnx", "m/2/weights.bin", "empty/readme"]);
        assert_eq!(files(&folder), [live("m", "1", "m/1/model.onnx")]);
        let faults = faults(&folder, BYTES_MAX);
        assert_eq!((&*faults[0].0, faults[0].1.as_deref()), ("empty", Some("empty")));
        assert_eq!(faults[1], ("m/2".to_owned(), None, "the folder holds no model.onnx".to_owned()));
    }

    #[test]
    fn names_that_no_model_may_have_are_told_and_not_opened() {
        let long = format!("{}.onnx", "x".repeat(129));
        let folder = folder(&[
            "a b.onnx",
            ".hidden.onnx",
            "mod\u{e8}le.onnx",
            ".onnx",
            &long,
            "a\nb/1/model.onnx",
            "m/v 1/model.onnx",
        ]);
        assert_eq!(files(&folder), []);
        let faults = faults(&folder, BYTES_MAX);
        assert_eq!(faults.len(), 8, "{faults:?}");
        for (path, id, reason) in faults {
            let no_version = path == "m";
            assert_eq!(id.is_some(), no_version, "{path}");
            assert!(no_version || reason.starts_with("the name is not that of a "), "{path}: {reason}");
        }
    }

    #[test]
    fn a_model_in_both_forms_is_a_fault() {
        let folder = folder(&["m.onnx", "m/1/model.onnx", "other.onnx"]);
        assert_eq!(files(&folder), [live("other", "", "other.onnx")]);
        let [(path, id, reason)] = &faults(&folder, BYTES_MAX)[..] else { panic!() };
        assert_eq!((&**path, id.as_deref()), ("m.onnx", Some("m")));
        assert!(reason.ends_with("m is the same model: remove one of the two"), "{reason}");
    }

    #[test]
    fn a_link_serves_inside_the_folder_and_not_out_of_it() {
        let outside = folder(&["secret.onnx", "m/1/model.onnx"]);
        let folder = folder(&["real.onnx", "deep/1/model.onnx"]);
        let at = |path: &str| folder.path().join(path);
        symlink("real.onnx", at("alias.onnx")).unwrap();
        symlink("1", at("deep/2")).unwrap();
        symlink(outside.path().join("secret.onnx"), at("file.onnx")).unwrap();
        symlink(outside.path().join("m"), at("folder")).unwrap();
        fs::create_dir(at("version")).unwrap();
        symlink(outside.path().join("m/1"), at("version/1")).unwrap();
        fs::create_dir_all(at("inner/1")).unwrap();
        symlink(outside.path().join("secret.onnx"), at("inner/1/model.onnx")).unwrap();
        symlink("../nowhere", at("dangling")).unwrap();
        symlink("nowhere", at("lost.onnx")).unwrap();

        assert_eq!(
            files(&folder),
            [
                live("alias", "", "alias.onnx"),
                live("deep", "2", "deep/2/model.onnx"),
                live("real", "", "real.onnx")
            ]
        );
        for (path, id, reason) in faults(&folder, BYTES_MAX) {
            let missing = ["dangling", "lost.onnx"].contains(&&*path);
            let wanted =
                if missing { "No such file" } else { "a symbolic link leads out of the model folder" };
            assert!(reason.starts_with(wanted) && id.is_some(), "{path}: {reason}");
        }
        assert_eq!(faults(&folder, BYTES_MAX).len(), 6);
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = folder(&["large.onnx", "m.onnx"]);
        fs::create_dir_all(folder.path().join("dir/1/model.onnx")).unwrap();
        // To open a pipe would wait for ever.
        let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.onnx")).status();
        assert!(pipe.unwrap().success());
        let faults = faults(&folder, 6);
        let found: Vec<(&str, &str)> = faults.iter().map(|(path, _, reason)| (&**path, &**reason)).collect();
        assert_eq!(
            found,
            [
                ("dir/1/model.onnx", "it is not a regular file"),
                ("large.onnx", "the file is larger than the 6 bytes allowed"),
                ("pipe.onnx", "it is not a regular file"),
            ]
        );
        assert_eq!(find(folder.path(), 6).unwrap().files[0].id, "m");
    }

    #[test]
    fn a_file_is_read_only_as_it_was_found() {
        let folder = folder(&["m.onnx"]);
        let file = find(folder.path(), BYTES_MAX).unwrap().files.remove(0);
        assert_eq!(read(&file, 6).unwrap(), b"m.onnx");
        assert!(read(&file, 5).unwrap_err().to_string().ends_with("larger than the 5 bytes allowed"));
        fs::write(&file.path, "other").unwrap();
        assert!(read(&file, 6).unwrap_err().to_string().contains("the file has changed"));
        fs::remove_file(&file.path).unwrap();
        assert!(matches!(read(&file, 6), Err(ModelError::Load { .. })));
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let missing = find(Path::new("/nowhere/models"), BYTES_MAX).unwrap_err();
        assert!(
            missing.to_string().starts_with("could not read the model folder /nowhere/models: "),
            "{missing}"
        );
    }

    fn name() -> impl Strategy<Value = String> {
        "[0-9a-b.-]{1,6}"
    }

    proptest! {
        #[test]
        fn numbers_are_ordered_as_numbers(left: u32, right: u32, before in "[a-z.-]{0,3}", zeros in "0{0,3}") {
            let version = |number: u32, zeros: &str| format!("{before}{zeros}{number}");
            if left != right {
                prop_assert_eq!(natural_order(&version(left, &zeros), &version(right, "")), left.cmp(&right));
            }
        }

        #[test]
        fn natural_order_is_an_order(one in name(), two in name(), three in name()) {
            prop_assert_eq!(natural_order(&one, &two), natural_order(&two, &one).reverse());
            prop_assert_eq!(natural_order(&one, &two).is_eq(), one == two);
            if natural_order(&one, &two).is_le() && natural_order(&two, &three).is_le() {
                prop_assert!(natural_order(&one, &three).is_le());
            }
        }
    }
}

//! A backup is one SQLite file: the state as it was at one moment, and beside it the files that belong to it, in two
//! tables more. What is restored from it is whole and of this version, or nothing.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Row};
use zeroize::Zeroizing;

use super::{Sqlite, StoreError};

/// Of the two tables.
const FORMAT: i64 = 1;
/// By so much every number that others compare goes ahead: what was published after the backup is unknown.
const AHEAD: i64 = 1_000_000;

/// Files by their names.
pub type Files = Vec<(String, Zeroizing<Vec<u8>>)>;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The trust domain.
    pub trust_domain: String,
    /// When it was made, seconds since 1970.
    pub made: i64,
    /// By which version.
    pub version: String,
}

/// Writes the state of a store, which may be in use, and these files to a new file.
///
/// # Errors
/// When the state cannot be read, or the file cannot be written.
pub async fn write(state: &Path, to: &Path, about: &About, files: &Files) -> Result<(), StoreError> {
    Sqlite::copy(state, to).await?;
    let mut backup = open(to, false).await?;
    let mut all = backup.begin().await?;
    for table in [
        "CREATE TABLE backup (format INTEGER NOT NULL, trust_domain TEXT NOT NULL, made INTEGER NOT NULL, version TEXT NOT NULL)",
        "CREATE TABLE backup_file (name TEXT PRIMARY KEY, content BLOB NOT NULL)",
    ] {
        sqlx::query(table).execute(&mut *all).await?;
    }
    sqlx::query("INSERT INTO backup (format, trust_domain, made, version) VALUES (?, ?, ?, ?)")
        .bind(FORMAT)
        .bind(&about.trust_domain)
        .bind(about.made)
        .bind(&about.version)
        .execute(&mut *all)
        .await?;
    for (name, content) in files {
        sqlx::query("INSERT INTO backup_file (name, content) VALUES (?, ?)")
            .bind(name)
            .bind(content.as_slice())
            .execute(&mut *all)
            .await?;
    }
    all.commit().await?;
    backup.close().await?;
    sync(to)
}

/// Reads what a backup is and the files in it, after it was found to be whole.
///
/// # Errors
/// When it is damaged, or no backup of a version that we know.
pub async fn read(from: &Path) -> Result<(About, Files), StoreError> {
    let mut backup = open(from, true).await?;
    let row = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut backup)
        .await?;
    let found: String = row.try_get(0)?;
    if found != "ok" {
        return Err(StoreError::Corrupt(format!("it is damaged: {found}")));
    }
    let known = sqlx::query("SELECT count(*) FROM sqlite_schema WHERE name IN ('backup', 'backup_file')")
        .fetch_one(&mut backup)
        .await?;
    if known.try_get::<i64, _>(0)? != 2 {
        return Err(StoreError::Corrupt("it is no backup".to_owned()));
    }
    let row = sqlx::query("SELECT format, trust_domain, made, version FROM backup")
        .fetch_one(&mut backup)
        .await?;
    let about = About {
        trust_domain: row.try_get("trust_domain")?,
        made: row.try_get("made")?,
        version: row.try_get("version")?,
    };
    if row.try_get::<i64, _>("format")? != FORMAT {
        let version = about.version;
        return Err(StoreError::Corrupt(format!(
            "hopguard {version} wrote it in a newer form"
        )));
    }
    let rows = sqlx::query("SELECT name, content FROM backup_file ORDER BY name")
        .fetch_all(&mut backup)
        .await?;
    let files = rows
        .iter()
        .map(|row| Ok((row.try_get("name")?, Zeroizing::new(row.try_get("content")?))));
    let files = files.collect::<Result<_, StoreError>>()?;
    backup.close().await?;
    Ok((about, files))
}

/// The names of the keys that a backup's authorities sign with.
///
/// # Errors
/// When it cannot be read.
pub async fn keys(from: &Path) -> Result<Vec<String>, StoreError> {
    let mut backup = open(from, true).await?;
    let rows = sqlx::query("SELECT key FROM authority")
        .fetch_all(&mut backup)
        .await?;
    backup.close().await?;
    rows.iter().map(|row| Ok(row.try_get("key")?)).collect()
}

/// Writes the state in a backup to a new file, ready to be opened by this version, and opens it.
///
/// # Errors
/// When it cannot be written, or a newer version wrote it.
pub async fn restore(from: &Path, state: &Path, now: i64) -> Result<Sqlite, StoreError> {
    Sqlite::copy(from, state).await?;
    let mut copy = open(state, false).await?;
    // The keys are files again: nothing of them stays in here.
    for statement in [
        "PRAGMA secure_delete = ON",
        "DROP TABLE backup_file",
        "DROP TABLE backup",
        "VACUUM",
    ] {
        sqlx::query(statement).execute(&mut copy).await?;
    }
    copy.close().await?;
    let store = Sqlite::open(state).await?;
    store.ahead(AHEAD, now).await?;
    Ok(store)
}

/// Without a journal file, in which parts of keys could stay.
async fn open(path: &Path, read_only: bool) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging();
    let options = if read_only {
        options.read_only(true)
    } else {
        options.journal_mode(SqliteJournalMode::Memory)
    };
    Ok(options.connect().await?)
}

fn sync(path: &Path) -> Result<(), StoreError> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })
}

//! The store in one SQLite file, for one process. WAL with full synchronisation: an answer means that it is on the disk.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};

use super::{
    AliveGroup, Answer, AuthorityKind, AuthorityRecord, AuthorityState, Issued, RevocationChange,
    Revocations, Store, StoreError, revocations,
};

/// Records that one statement forgets.
const PURGED_AT_ONCE: i64 = 2000;

/// The embedded store.
#[derive(Debug)]
pub struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    /// Opens the file, makes it (mode 0600) when it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be opened, is no database, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        make(path, false)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        // One connection: writes are grouped by the recorder, reads are rare.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// Writes a copy of everything as it is at one moment to a new file, while the store goes on; mode 0600.
    ///
    /// # Errors
    /// When it cannot be read, or the copy cannot be written.
    pub async fn copy(path: &Path, to: &Path) -> Result<(), StoreError> {
        // `VACUUM INTO` fills an empty file that is there, and so keeps its mode.
        make(to, true)?;
        // A connection of its own reads beside the writer, and never makes it wait.
        let mut reader = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging()
            .connect()
            .await?;
        let target = to.to_str().ok_or_else(|| StoreError::File {
            path: to.to_owned(),
            source: std::io::ErrorKind::InvalidFilename.into(),
        })?;
        sqlx::query("VACUUM INTO ?")
            .bind(target)
            .execute(&mut reader)
            .await?;
        reader.close().await?;
        Ok(())
    }

    /// Moves what was restored ahead: numbers that others compare go up by so much, what was waited for at the time of
    /// the backup starts to wait anew, and a JWT key is trusted for as long as a token of it may live at the most, because
    /// what was published and handed out since is unknown.
    pub(super) async fn ahead(&self, by: i64, now: i64) -> Result<(), StoreError> {
        let mut all = self.pool.begin().await?;
        for statement in [
            "UPDATE bundle SET sequence = sequence + ?",
            "UPDATE revocation_list SET number = number + ?",
        ] {
            sqlx::query(statement).bind(by).execute(&mut *all).await?;
        }
        sqlx::query(
            "UPDATE authority SET until = MAX(until, ?1 + 86400), \
             since = CASE state WHEN 'active' THEN since ELSE ?1 END, \
             published = CASE WHEN state = 'active' OR published = 0 THEN published ELSE ?1 END",
        )
        .bind(now)
        .execute(&mut *all)
        .await?;
        all.commit().await?;
        Ok(())
    }

    /// Writes the log back into the file and closes it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Store for Sqlite {
    fn bind<'a>(&'a self, trust_domain: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            sqlx::query("INSERT INTO trust_domain (only, name) VALUES (1, ?) ON CONFLICT DO NOTHING")
                .bind(trust_domain)
                .execute(&self.pool)
                .await?;
            let row = sqlx::query("SELECT name FROM trust_domain")
                .fetch_one(&self.pool)
                .await?;
            Ok(row.try_get("name")?)
        })
    }

    fn authorities(&self) -> Answer<'_, Vec<AuthorityRecord>> {
        Box::pin(async move {
            let rows =
                sqlx::query(
                    "SELECT kind, id, certificate, key, state, since, published, sequence, held, until, not_after \
                     FROM authority ORDER BY rowid",
                )
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(authority).collect()
        })
    }

    fn put_authority<'a>(&'a self, record: &'a AuthorityRecord) -> Answer<'a, ()> {
        Box::pin(async move {
            sqlx::query(
                "INSERT INTO authority \
                 (kind, id, certificate, key, state, since, published, sequence, held, until, not_after) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
                 state = excluded.state, since = excluded.since, published = excluded.published, \
                 sequence = excluded.sequence, held = excluded.held, until = excluded.until",
            )
            .bind(record.kind.as_str())
            .bind(&record.id)
            .bind(&record.certificate)
            .bind(&record.key)
            .bind(record.state.as_str())
            .bind(record.since)
            .bind(record.published)
            .bind(record.sequence)
            .bind(record.held)
            .bind(record.until)
            .bind(record.not_after)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
    }

    fn remove_authority<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            sqlx::query("DELETE FROM authority WHERE id = ?")
                .bind(id)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
    }

    fn sequence<'a>(&'a self, content: &'a [u8]) -> Answer<'a, i64> {
        Box::pin(async move {
            let row = sqlx::query(
                "INSERT INTO bundle (only, sequence, content) VALUES (1, 1, ?) ON CONFLICT DO UPDATE SET \
                 sequence = sequence + (content <> excluded.content), content = excluded.content \
                 RETURNING sequence",
            )
            .bind(content)
            .fetch_one(&self.pool)
            .await?;
            Ok(row.try_get("sequence")?)
        })
    }

    fn record<'a>(&'a self, issued: &'a [Issued]) -> Answer<'a, ()> {
        Box::pin(async move {
            // One statement, so one transaction and one turn of the database's thread, however many there are.
            let rows: Vec<_> = issued
                .iter()
                .map(|one| {
                    (
                        &one.serial,
                        &one.spiffe_id,
                        &one.authority,
                        one.bundle,
                        one.not_after,
                    )
                })
                .collect();
            let rows =
                serde_json::to_string(&rows).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            sqlx::query(
                "INSERT INTO issued (serial, spiffe_id, authority, bundle, not_after) \
                 SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)",
            )
            .bind(rows)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
    }

    fn issued<'a>(&'a self, spiffe_ids: &'a [&'a str], now: i64) -> Answer<'a, Vec<Issued>> {
        Box::pin(async move {
            let ids =
                serde_json::to_string(spiffe_ids).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            // One pass over what lives, however many identities are asked for.
            let rows = sqlx::query(
                "SELECT serial, spiffe_id, authority, bundle, not_after FROM issued \
                 WHERE spiffe_id IN (SELECT value FROM json_each(?)) AND not_after >= ? ORDER BY not_after, serial",
            )
            .bind(ids)
            .bind(now)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(issued_row).collect()
        })
    }

    fn issued_serial<'a>(&'a self, serial: &'a str, now: i64) -> Answer<'a, Option<Issued>> {
        Box::pin(async move {
            let row = sqlx::query(
                "SELECT serial, spiffe_id, authority, bundle, not_after FROM issued WHERE serial = ? AND not_after >= ?",
            )
            .bind(serial)
            .bind(now)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(issued_row).transpose()
        })
    }

    fn revocations(&self) -> Answer<'_, Revocations> {
        Box::pin(async move { revocations::read(&mut *self.pool.acquire().await?).await })
    }

    fn change_revocations<'a>(&'a self, change: &'a RevocationChange) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.pool.begin().await?;
            revocations::change(&mut transaction, change).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn alive(&self, now: i64) -> Answer<'_, Vec<AliveGroup>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT authority, bundle, COUNT(*) AS count, MIN(not_after) AS first, MAX(not_after) AS last \
                 FROM issued WHERE not_after >= ? GROUP BY authority, bundle",
            )
            .bind(now)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(alive_row).collect()
        })
    }

    fn purge(&self, now: i64) -> Answer<'_, u64> {
        Box::pin(async move {
            sqlx::query("DELETE FROM revoked_serial WHERE not_after < ?")
                .bind(now)
                .execute(&self.pool)
                .await?;
            sqlx::query("DELETE FROM lifted_identity WHERE lifted < ?")
                .bind(now.saturating_sub(revocations::LONGEST_TOKEN))
                .execute(&self.pool)
                .await?;
            // Some at a time, so that those who record never wait for long.
            let mut removed = 0;
            loop {
                let done = sqlx::query(
                    "DELETE FROM issued WHERE serial IN \
                     (SELECT serial FROM issued WHERE not_after < ? ORDER BY not_after LIMIT ?)",
                )
                .bind(now)
                .bind(PURGED_AT_ONCE)
                .execute(&self.pool)
                .await?;
                removed += done.rows_affected();
                if done.rows_affected() == 0 {
                    return Ok(removed);
                }
            }
        })
    }
}

/// Makes an empty file that only we can read, unless it is there and may be.
fn make(path: &Path, new: bool) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .create_new(new)
        .truncate(false)
        .mode(0o600);
    let made = options.open(path).map(drop);
    made.map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })
}

fn authority(row: &SqliteRow) -> Result<AuthorityRecord, StoreError> {
    let state: String = row.try_get("state")?;
    let kind: String = row.try_get("kind")?;
    Ok(AuthorityRecord {
        kind: AuthorityKind::parse(&kind)
            .ok_or_else(|| StoreError::Corrupt(format!("an authority of the kind `{kind}`")))?,
        id: row.try_get("id")?,
        certificate: row.try_get("certificate")?,
        key: row.try_get("key")?,
        state: AuthorityState::parse(&state)
            .ok_or_else(|| StoreError::Corrupt(format!("an authority in the state `{state}`")))?,
        since: row.try_get("since")?,
        published: row.try_get("published")?,
        sequence: row.try_get("sequence")?,
        held: row.try_get("held")?,
        until: row.try_get("until")?,
        not_after: row.try_get("not_after")?,
    })
}

fn issued_row(row: &SqliteRow) -> Result<Issued, StoreError> {
    Ok(Issued {
        serial: row.try_get("serial")?,
        spiffe_id: row.try_get("spiffe_id")?,
        authority: row.try_get("authority")?,
        bundle: row.try_get("bundle")?,
        not_after: row.try_get("not_after")?,
    })
}

fn alive_row(row: &SqliteRow) -> Result<AliveGroup, StoreError> {
    let count: i64 = row.try_get("count")?;
    Ok(AliveGroup {
        authority: row.try_get("authority")?,
        bundle: row.try_get("bundle")?,
        count: count.unsigned_abs(),
        first: row.try_get("first")?,
        last: row.try_get("last")?,
    })
}

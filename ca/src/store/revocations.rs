//! What was taken back, as it is kept; and its tables in SQLite.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::StoreError;

/// An identity that gets no SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedIdentity {
    /// Which.
    pub spiffe_id: String,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: i64,
}

/// So long a token may live at the most, in seconds, whatever `jwt_svid_ttl` is or was.
pub(super) const LONGEST_TOKEN: i64 = 24 * 3600;

/// An identity whose revocation was lifted: what it was given before stays worthless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftedIdentity {
    /// Which.
    pub spiffe_id: String,
    /// When, seconds since 1970.
    pub lifted: i64,
}

/// A certificate that was taken back and has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedSerial {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Whose it was.
    pub spiffe_id: String,
    /// Id of the authority that signed it.
    pub authority: String,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: i64,
    /// End of its validity, seconds since 1970.
    pub not_after: i64,
}

/// The newest revocation list of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptList {
    /// Id of the authority.
    pub authority: String,
    /// Its number, which never goes back.
    pub number: u64,
    /// When it was signed, seconds since 1970.
    pub made: i64,
    /// The list, DER.
    pub list: Vec<u8>,
}

/// All that is revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Identities, by name.
    pub identities: Vec<RevokedIdentity>,
    /// Identities that were revoked, by name, as long as tokens from before may be alive.
    pub lifted: Vec<LiftedIdentity>,
    /// Certificates, by serial number.
    pub serials: Vec<RevokedSerial>,
    /// The newest lists, by authority.
    pub lists: Vec<KeptList>,
}

/// What changes. What is there already is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationChange {
    /// This identity is revoked.
    pub identity: Option<RevokedIdentity>,
    /// This identity is not revoked any more.
    pub lifted: Option<LiftedIdentity>,
    /// Nothing is kept of what this authority signed, and no list of it.
    pub forgotten: Option<String>,
    /// These certificates are revoked.
    pub serials: Vec<RevokedSerial>,
    /// These lists are the newest.
    pub lists: Vec<KeptList>,
}

pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Revocations, StoreError> {
    let identities = sqlx::query("SELECT spiffe_id, reason, since FROM revoked_identity ORDER BY spiffe_id")
        .fetch_all(&mut *connection)
        .await?;
    let lifted = sqlx::query("SELECT spiffe_id, lifted FROM lifted_identity ORDER BY spiffe_id")
        .fetch_all(&mut *connection)
        .await?;
    let serials = sqlx::query(
        "SELECT serial, spiffe_id, authority, reason, since, not_after FROM revoked_serial ORDER BY serial",
    )
    .fetch_all(&mut *connection)
    .await?;
    let lists = sqlx::query("SELECT authority, number, made, list FROM revocation_list ORDER BY authority")
        .fetch_all(&mut *connection)
        .await?;
    Ok(Revocations {
        identities: identities.iter().map(identity).collect::<Result<_, _>>()?,
        lifted: lifted.iter().map(lifted_identity).collect::<Result<_, _>>()?,
        serials: serials.iter().map(serial).collect::<Result<_, _>>()?,
        lists: lists.iter().map(list).collect::<Result<_, _>>()?,
    })
}

pub(super) async fn change(
    connection: &mut SqliteConnection,
    change: &RevocationChange,
) -> Result<(), StoreError> {
    if let Some(one) = &change.identity {
        sqlx::query("INSERT OR REPLACE INTO revoked_identity (spiffe_id, reason, since) VALUES (?, ?, ?)")
            .bind(&one.spiffe_id)
            .bind(&one.reason)
            .bind(one.since)
            .execute(&mut *connection)
            .await?;
    }
    if let Some(lifted) = &change.lifted {
        sqlx::query("DELETE FROM revoked_identity WHERE spiffe_id = ?")
            .bind(&lifted.spiffe_id)
            .execute(&mut *connection)
            .await?;
        sqlx::query("INSERT OR REPLACE INTO lifted_identity (spiffe_id, lifted) VALUES (?, ?)")
            .bind(&lifted.spiffe_id)
            .bind(lifted.lifted)
            .execute(&mut *connection)
            .await?;
    }
    if let Some(authority) = &change.forgotten {
        for statement in [
            "DELETE FROM revoked_serial WHERE authority = ?",
            "DELETE FROM revocation_list WHERE authority = ?",
        ] {
            sqlx::query(statement)
                .bind(authority)
                .execute(&mut *connection)
                .await?;
        }
    }
    for one in &change.serials {
        sqlx::query(
            "INSERT OR REPLACE INTO revoked_serial (serial, spiffe_id, authority, reason, since, not_after) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&one.serial)
        .bind(&one.spiffe_id)
        .bind(&one.authority)
        .bind(&one.reason)
        .bind(one.since)
        .bind(one.not_after)
        .execute(&mut *connection)
        .await?;
    }
    for one in &change.lists {
        let number = i64::try_from(one.number)
            .map_err(|_| StoreError::Corrupt("the number of a revocation list is too large".to_owned()))?;
        sqlx::query(
            "INSERT OR REPLACE INTO revocation_list (authority, number, made, list) VALUES (?, ?, ?, ?)",
        )
        .bind(&one.authority)
        .bind(number)
        .bind(one.made)
        .bind(&one.list)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn identity(row: &SqliteRow) -> Result<RevokedIdentity, StoreError> {
    Ok(RevokedIdentity {
        spiffe_id: row.try_get("spiffe_id")?,
        reason: row.try_get("reason")?,
        since: row.try_get("since")?,
    })
}

fn lifted_identity(row: &SqliteRow) -> Result<LiftedIdentity, StoreError> {
    Ok(LiftedIdentity {
        spiffe_id: row.try_get("spiffe_id")?,
        lifted: row.try_get("lifted")?,
    })
}

fn serial(row: &SqliteRow) -> Result<RevokedSerial, StoreError> {
    Ok(RevokedSerial {
        serial: row.try_get("serial")?,
        spiffe_id: row.try_get("spiffe_id")?,
        authority: row.try_get("authority")?,
        reason: row.try_get("reason")?,
        since: row.try_get("since")?,
        not_after: row.try_get("not_after")?,
    })
}

fn list(row: &SqliteRow) -> Result<KeptList, StoreError> {
    let number: i64 = row.try_get("number")?;
    Ok(KeptList {
        authority: row.try_get("authority")?,
        number: u64::try_from(number)
            .map_err(|_| StoreError::Corrupt("a revocation list with a negative number".to_owned()))?,
        made: row.try_get("made")?,
        list: row.try_get("list")?,
    })
}

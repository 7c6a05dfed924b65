//! API keys: found by the SHA-256 of their secret, judged by the database's clock.

use chrono::{DateTime, Utc};
use entity::{ApiKeyId, ContentDigest, api_keys};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Value,
};

use super::{Ledger, LedgerError, clock};

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its public name.
    pub id: ApiKeyId,
    /// Whose images it reaches.
    pub tenant: String,
    /// A label for people.
    pub name: String,
    /// SHA-256 of the secret.
    pub key_hash: ContentDigest,
    /// Comma-separated.
    pub scopes: String,
    /// When it stops working by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Ledger {
    /// The key with this hash, unless it expired or was revoked.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn find_working_key(
        &self,
        key_hash: &ContentDigest,
    ) -> Result<Option<api_keys::Model>, LedgerError> {
        let still_valid = Condition::any()
            .add(api_keys::Column::ExpiresAt.is_null())
            .add(Expr::col(api_keys::Column::ExpiresAt).gt(clock::now(self.backend)));
        let key = api_keys::Entity::find()
            .filter(api_keys::Column::KeyHash.eq(*key_hash))
            .filter(api_keys::Column::RevokedAt.is_null())
            .filter(still_valid)
            .one(&self.reader)
            .await?;
        Ok(key)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// The database did not answer; whether the key was made is then unknown, and its secret is
    /// better thrown away.
    pub async fn insert_key(&self, key: NewKey) -> Result<api_keys::Model, LedgerError> {
        let expires_at = match key.expires_at {
            Some(time) => clock::at(self.backend, time),
            None => Expr::value(Value::ChronoDateTimeUtc(None)),
        };
        let insert = Query::insert()
            .into_table(api_keys::Entity)
            .columns([
                api_keys::Column::Id,
                api_keys::Column::Tenant,
                api_keys::Column::Name,
                api_keys::Column::KeyHash,
                api_keys::Column::Scopes,
                api_keys::Column::ExpiresAt,
            ])
            .values_panic([
                Expr::value(key.id),
                Expr::value(key.tenant),
                Expr::value(key.name),
                Expr::value(key.key_hash),
                Expr::value(key.scopes),
                expires_at,
            ])
            .to_owned();
        self.writer.execute(&insert).await?;
        match self.find_key(key.id).await? {
            Some(made) => Ok(made),
            None => Err(LedgerError::Inconsistent(
                "a key that was just made is gone".to_owned(),
            )),
        }
    }

    /// Every key, oldest first.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn list_keys(&self) -> Result<Vec<api_keys::Model>, LedgerError> {
        let keys = api_keys::Entity::find()
            .order_by_asc(api_keys::Column::CreatedAt)
            .order_by_asc(api_keys::Column::Id)
            .all(&self.reader)
            .await?;
        Ok(keys)
    }

    /// Takes a key back; `None` when there is no such key. Again: the first time stays.
    ///
    /// # Errors
    /// The database did not answer; calling again is safe.
    pub async fn revoke_key(&self, id: ApiKeyId) -> Result<Option<api_keys::Model>, LedgerError> {
        api_keys::Entity::update_many()
            .col_expr(api_keys::Column::RevokedAt, clock::now(self.backend))
            .filter(api_keys::Column::Id.eq(id))
            .filter(api_keys::Column::RevokedAt.is_null())
            .exec(&self.writer)
            .await?;
        self.find_key(id).await
    }

    /// What the database's clock says: the only clock that decides anything (rule R7).
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn database_time(&self) -> Result<DateTime<Utc>, LedgerError> {
        let select = Query::select()
            .expr_as(clock::now(self.backend), "now")
            .to_owned();
        let row = self.reader.query_one(&select).await?;
        let now = row
            .ok_or_else(|| DbErr::RecordNotFound("the database's time".to_owned()))?
            .try_get("", "now")?;
        Ok(now)
    }

    async fn find_key(&self, id: ApiKeyId) -> Result<Option<api_keys::Model>, LedgerError> {
        let key = api_keys::Entity::find()
            .filter(api_keys::Column::Id.eq(id))
            .limit(1)
            .one(&self.writer)
            .await?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::ledger;
    use super::*;

    fn new_key(seed: u8, expires_at: Option<DateTime<Utc>>) -> NewKey {
        NewKey {
            id: ApiKeyId(uuid::Uuid::from_u128(u128::from(seed))),
            tenant: "acme".to_owned(),
            name: "ci".to_owned(),
            key_hash: ContentDigest::from([seed; 32]),
            scopes: "read,write".to_owned(),
            expires_at,
        }
    }

    #[tokio::test]
    async fn a_key_works_until_it_is_revoked() {
        let (ledger, _folder) = ledger().await;
        let made = ledger.insert_key(new_key(1, None)).await.expect("made");
        let hash = ContentDigest::from([1; 32]);
        let found = ledger.find_working_key(&hash).await.expect("asked");
        assert_eq!(found.as_ref(), Some(&made));
        assert_eq!(
            ledger.list_keys().await.expect("listed"),
            std::slice::from_ref(&made)
        );

        let revoked = ledger.revoke_key(made.id).await.expect("revoked");
        let first = revoked.and_then(|key| key.revoked_at);
        assert!(first.is_some());
        tokio::time::sleep(Duration::from_millis(5)).await;
        let again = ledger.revoke_key(made.id).await.expect("revoked again");
        assert_eq!(again.and_then(|key| key.revoked_at), first);
        assert_eq!(ledger.find_working_key(&hash).await.expect("asked"), None);

        let unknown = ApiKeyId(uuid::Uuid::from_u128(99));
        assert_eq!(ledger.revoke_key(unknown).await.expect("asked"), None);
    }

    #[tokio::test]
    async fn a_key_expires_by_the_databases_clock() {
        let (ledger, _folder) = ledger().await;
        let now = ledger.database_time().await.expect("a time");
        for (seed, offset_ms, works) in [(1, -1000, false), (2, 60_000, true), (3, 0, false)] {
            let expires_at = now + chrono::TimeDelta::milliseconds(offset_ms);
            let key = new_key(seed, Some(expires_at));
            let made = ledger.insert_key(key).await.expect("made");
            assert_eq!(made.expires_at, Some(expires_at));
            let hash = ContentDigest::from([seed; 32]);
            let found = ledger.find_working_key(&hash).await.expect("asked");
            assert_eq!(found.is_some(), works, "{offset_ms} ms from now");
        }
    }
}

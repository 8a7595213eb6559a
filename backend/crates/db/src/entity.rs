//! Tables as sea-orm sees them.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "sea-orm derives public items; the tables are private to the crate"
)]

pub(crate) mod session {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "session")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        #[sea_orm(unique)]
        pub token_hash: String,
        #[sea_orm(column_type = "Text")]
        pub user_info: String,
        pub method: String,
        pub created_at: i64,
        pub used_at: i64,
        pub expires_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod audit {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub at: i64,
        pub request_id: String,
        pub session_id: Option<Uuid>,
        #[sea_orm(column_type = "Text")]
        pub user_name: String,
        pub remote: String,
        pub method: String,
        pub route: String,
        #[sea_orm(column_type = "Text")]
        pub subject: String,
        pub status: i32,
        #[sea_orm(column_type = "Text")]
        pub outcome: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

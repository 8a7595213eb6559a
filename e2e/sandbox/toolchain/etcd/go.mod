module holdfast.dev/sandbox/toolchain/etcd

go 1.26

require go.etcd.io/etcd/server/v3 v3.6.5

tool go.etcd.io/etcd/server/v3

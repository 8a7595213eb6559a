module holdfast.dev/sandbox/toolchain/csi-sanity

go 1.26

require github.com/kubernetes-csi/csi-test/v5 v5.6.0

tool github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity

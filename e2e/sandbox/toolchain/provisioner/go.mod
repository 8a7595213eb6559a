module holdfast.dev/sandbox/toolchain/provisioner

go 1.26

require github.com/kubernetes-csi/external-provisioner/v6 v6.3.0

replace sigs.k8s.io/sig-storage-lib-external-provisioner/v13 => sigs.k8s.io/sig-storage-lib-external-provisioner/v13 v13.0.0

tool github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner

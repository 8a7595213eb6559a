module holdfast.dev/sandbox/toolchain/coredns

go 1.26

require github.com/coredns/coredns v1.15.0

tool github.com/coredns/coredns

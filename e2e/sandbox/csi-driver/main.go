// The sandbox's CSI driver: test equipment that gives a one-machine cluster block volumes, file systems and snapshots.
// See README.md for the flags and what it promises.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"holdfast.dev/sandbox/csi-driver/internal/driver"
	"holdfast.dev/sandbox/csi-driver/internal/faults"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

const (
	version = "0.1.0"
	// maxSocketPath is what fits into a unix socket address.
	maxSocketPath = 107
	stopTimeout   = 8 * time.Second
)

type options struct {
	endpoint, dataDir, nodeID, registrationPath, poolSize, faultsFile string
	topology, cleanup, version                                        bool
}

func main() {
	var o options
	flag.StringVar(&o.endpoint, "endpoint", "", "CSI socket: unix:///path or an absolute path")
	flag.StringVar(&o.dataDir, "data-dir", "", "directory that holds the pool; one driver per directory")
	flag.StringVar(&o.nodeID, "node-id", "", "name of the Node")
	flag.StringVar(&o.registrationPath, "kubelet-registration-path", "", "socket to create in the kubelet's plugins_registry")
	flag.StringVar(&o.poolSize, "pool-size", "64Gi", "virtual size of a new pool")
	flag.StringVar(&o.faultsFile, "faults-file", "", "JSON file of fault switches, re-read on every call")
	flag.BoolVar(&o.topology, "topology", false, "volumes are reachable from this node only")
	flag.BoolVar(&o.cleanup, "cleanup", false, "undo every mount and loop device of the data directory and exit")
	flag.BoolVar(&o.version, "version", false, "print the version and exit")
	flag.Parse()
	if o.version {
		fmt.Println(version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(ctx, o); err != nil {
		slog.Error("csi-driver", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if o.dataDir == "" {
		return errors.New("--data-dir is missing")
	}
	if o.cleanup {
		return pool.Cleanup(ctx, o.dataDir)
	}
	if o.nodeID == "" {
		return errors.New("--node-id is missing")
	}
	endpoint, err := socketPath(o.endpoint)
	if err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	size, err := parseSize(o.poolSize)
	if err != nil {
		return fmt.Errorf("--pool-size: %w", err)
	}
	opened, err := pool.Open(ctx, o.dataDir, size)
	if err != nil {
		return err
	}
	d := &driver.Driver{
		Pool: opened, NodeID: o.nodeID, Topology: o.topology, Faults: faults.File(o.faultsFile), Version: version,
	}
	return errors.Join(serve(ctx, d, endpoint, o.registrationPath), opened.Close())
}

// serve answers calls until the context ends or a server fails.
func serve(ctx context.Context, d *driver.Driver, endpoint, registrationPath string) error {
	calls := grpc.NewServer(grpc.UnaryInterceptor(d.Intercept))
	d.Register(calls)
	failed := make(chan error, 2)
	servers := []*grpc.Server{calls}
	if err := start(calls, endpoint, failed); err != nil {
		return err
	}
	if registrationPath != "" {
		// After the CSI socket: the kubelet calls it as soon as it sees this one.
		registrar := grpc.NewServer()
		registration.RegisterRegistrationServer(registrar, &driver.Registration{Endpoint: endpoint})
		path, err := socketPath(registrationPath)
		if err == nil {
			err = start(registrar, path, failed)
		}
		if err != nil {
			calls.Stop()
			return fmt.Errorf("--kubelet-registration-path: %w", err)
		}
		servers = append([]*grpc.Server{registrar}, servers...)
	}
	slog.Info("ready", "driver", driver.Name, "endpoint", endpoint, "node", d.NodeID)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	forced := time.AfterFunc(stopTimeout, func() {
		for _, server := range servers {
			server.Stop()
		}
	})
	defer forced.Stop()
	for _, server := range servers {
		server.GracefulStop() // also removes its socket
	}
	slog.Info("stopped")
	return err
}

func start(server *grpc.Server, path string, failed chan<- error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	// A socket that a killed driver left. Another living driver cannot own it: the data directory's lock is ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, listener.Close())
	}
	go func() {
		if err := server.Serve(listener); err != nil {
			failed <- err
		}
	}()
	return nil
}

func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not the absolute path of a unix socket", endpoint)
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("%q is longer than the %d bytes of a socket address", path, maxSocketPath)
	}
	return filepath.Clean(path), nil
}

// parseSize reads "64Gi", "500Mi" or plain bytes.
func parseSize(text string) (int64, error) {
	shift := 0
	digits := text
	for suffix, bits := range map[string]int{"Mi": 20, "Gi": 30, "Ti": 40} {
		if cut, ok := strings.CutSuffix(text, suffix); ok {
			digits, shift = cut, bits
		}
	}
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || number <= 0 || number > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size such as 64Gi", text)
	}
	return number << shift, nil
}

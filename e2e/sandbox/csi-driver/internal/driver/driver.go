// Package driver answers CSI calls: Identity, Controller and Node on one socket, and the kubelet's plugin registration on
// another. What a volume is on disk is the pool's business; here is what CSI asks of it.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"holdfast.dev/sandbox/csi-driver/internal/faults"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

// Name of the driver, as in CSIDriver, StorageClass and VolumeSnapshotClass.
const Name = "csi.sandbox.holdfast.dev"

// TopologyKey is the label of a volume's node when topology is on.
const TopologyKey = "topology.csi.sandbox.holdfast.dev/node"

// Driver serves one pool on one node.
type Driver struct {
	// Pool holds the volumes.
	Pool *pool.Pool
	// NodeID is the Node's name.
	NodeID string
	// Topology binds volumes to this node.
	Topology bool
	// Faults are the tests' switches.
	Faults faults.File
	// Version is reported to callers.
	Version string

	locks keyLock
}

// Register adds the three CSI services to a gRPC server.
func (d *Driver) Register(server *grpc.Server) {
	csi.RegisterIdentityServer(server, &identity{Driver: d})
	csi.RegisterControllerServer(server, &controller{Driver: d})
	csi.RegisterNodeServer(server, &node{Driver: d})
}

// Intercept logs a call, applies its faults and gives every error a gRPC code.
func (d *Driver) Intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	method := path.Base(info.FullMethod)
	identityCall := strings.HasPrefix(info.FullMethod, "/csi.v1.Identity/")
	var err error
	if message, ok := request.(proto.Message); ok && !identityCall {
		err = d.applyFault(ctx, method, message)
	}
	var response any
	if err == nil {
		response, err = handler(ctx, request)
	}
	err = withCode(err)
	level := slog.LevelInfo
	if err == nil && (identityCall || method == "NodeGetVolumeStats" || strings.HasSuffix(method, "GetCapabilities")) {
		level = slog.LevelDebug
	}
	attributes := []any{"subject", subjectOf(request), "ms", time.Since(start).Milliseconds()}
	if err != nil {
		level = slog.LevelWarn
		attributes = append(attributes, "error", err)
	}
	slog.Log(ctx, level, method, attributes...)
	return response, err
}

func (d *Driver) applyFault(ctx context.Context, method string, request proto.Message) error {
	key := string(unicode.ToLower(rune(method[0]))) + method[1:]
	fault, err := d.Faults.ForCall(key, stringsIn(request.ProtoReflect()))
	if err != nil {
		return err
	}
	if fault.Delay > 0 {
		select {
		case <-time.After(fault.Delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fault.Code != codes.OK {
		return status.Error(fault.Code, fault.Message)
	}
	return nil
}

// subjectOf names what a call is about in the log: a name or an id, never parameters or secrets.
func subjectOf(request any) string {
	if r, ok := request.(interface{ GetVolumeId() string }); ok && r.GetVolumeId() != "" {
		return r.GetVolumeId()
	}
	if r, ok := request.(interface{ GetSnapshotId() string }); ok && r.GetSnapshotId() != "" {
		return r.GetSnapshotId()
	}
	if r, ok := request.(interface{ GetName() string }); ok {
		return r.GetName()
	}
	return ""
}

// stringsIn lists every string of a request, map entries as key=value; secrets are left out.
func stringsIn(message protoreflect.Message) []string {
	var list []string
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Name() == "secrets":
		case field.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				list = append(list, key.String()+"="+value.String())
				return true
			})
		case field.IsList():
			for i := range value.List().Len() {
				if field.Kind() == protoreflect.MessageKind {
					list = append(list, stringsIn(value.List().Get(i).Message())...)
				} else {
					list = append(list, value.List().Get(i).String())
				}
			}
		case field.Kind() == protoreflect.MessageKind:
			list = append(list, stringsIn(value.Message())...)
		case field.Kind() == protoreflect.StringKind:
			list = append(list, value.String())
		}
		return true
	})
	return list
}

// withCode keeps an error that has a code and finds one for those that have none.
func withCode(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, pool.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, loopdev.ErrBusy):
		code = codes.Unavailable
	case strings.Contains(strings.ToLower(err.Error()), "no space left on device"): // from system calls and from tools
		code = codes.ResourceExhausted
	}
	return status.Error(code, err.Error())
}

func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

// canonical is a path as the mount table has it: the parent's links resolved, the last element as it is.
func canonical(target string) string {
	parent, err := filepath.EvalSymlinks(filepath.Dir(target))
	if err != nil {
		return filepath.Clean(target) // a parent that is not there cannot be in the mount table
	}
	return filepath.Join(parent, filepath.Base(target))
}

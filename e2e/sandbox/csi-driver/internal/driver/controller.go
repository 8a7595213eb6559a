package driver

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
)

const (
	sizeStep    int64 = 1 << 20  // sizes are whole mebibytes
	defaultSize int64 = 1 << 30  // of a volume for which nobody says a size
	maxSize     int64 = 64 << 40 // far beyond any pool: volumes are thin

	// metadataPrefix begins the parameters that sidecars add by themselves.
	metadataPrefix = "csi.storage.k8s.io/"
)

type controller struct {
	csi.UnimplementedControllerServer
	*Driver
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return response, nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume id is missing")
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, invalid("volume capabilities are missing")
	}
	if _, err := c.Pool.Volume(r.GetVolumeId()); err != nil {
		return nil, err
	}
	for _, capability := range r.GetVolumeCapabilities() {
		if err := checkCapability(capability); err != nil {
			return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
		}
	}
	if err := checkParameters(r.GetParameters()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      r.GetVolumeContext(),
		VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters:         r.GetParameters(),
	}}, nil
}

func (c *controller) GetCapacity(_ context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	for _, capability := range r.GetVolumeCapabilities() {
		if checkCapability(capability) != nil {
			return &csi.GetCapacityResponse{}, nil
		}
	}
	if segments := r.GetAccessibleTopology().GetSegments(); c.Topology && segments != nil && segments[TopologyKey] != c.NodeID {
		return &csi.GetCapacityResponse{}, nil
	}
	free, err := c.Pool.FreeBytes()
	if err != nil {
		return nil, err
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: free,
		MinimumVolumeSize: wrapperspb.Int64(sizeStep),
		MaximumVolumeSize: wrapperspb.Int64(maxSize),
	}, nil
}

// checkParameters refuses what it does not know: a parameter that is ignored is a promise that is not kept.
func checkParameters(parameters map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if !strings.HasPrefix(key, metadataPrefix) {
			return invalid("unknown parameter %q", key)
		}
	}
	return nil
}

// checkCapability tells whether volumes of this driver can be used in such a way.
func checkCapability(capability *csi.VolumeCapability) error {
	if capability == nil {
		return invalid("volume capability is missing")
	}
	mode := capability.GetAccessMode().GetMode()
	switch mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if capability.GetBlock() == nil {
			return invalid("access mode %s is for Block volumes only", mode)
		}
	default:
		return invalid("access mode %s is not supported", mode)
	}
	if capability.GetBlock() == nil && capability.GetMount() == nil {
		return invalid("volume capability is neither block nor mount")
	}
	if fsType := capability.GetMount().GetFsType(); !fsimage.Supported(fsType) {
		return invalid("file system %q is not supported: ext4 and xfs are", fsType)
	}
	return nil
}

func readerOnly(capability *csi.VolumeCapability) bool {
	mode := capability.GetAccessMode().GetMode()
	return mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY ||
		mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}

// page cuts a listing that is ordered by position. A token is the position of the last entry before the page, so that
// entries which come or go between two calls move no others.
func page[T interface{ Position() int64 }](all []T, token string, maxEntries int32) ([]T, string, error) {
	if maxEntries < 0 {
		return nil, "", invalid("max entries is negative: %d", maxEntries)
	}
	if token != "" {
		after, err := strconv.ParseInt(token, 10, 64)
		if err != nil {
			return nil, "", status.Errorf(codes.Aborted, "starting token %q is not one of ours", token)
		}
		all = slices.DeleteFunc(all, func(entry T) bool { return entry.Position() <= after })
	}
	if maxEntries == 0 || len(all) <= int(maxEntries) {
		return all, "", nil
	}
	all = all[:maxEntries]
	return all, strconv.FormatInt(all[len(all)-1].Position(), 10), nil
}

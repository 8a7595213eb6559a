package driver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/mounts"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

// node keeps no state: what is staged and published is read from the kernel each time, so nothing is lost with the process.
type node struct {
	csi.UnimplementedNodeServer
	*Driver
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	info := &csi.NodeGetInfoResponse{NodeId: n.NodeID}
	if n.Topology {
		info.AccessibleTopology = &csi.Topology{Segments: map[string]string{TopologyKey: n.NodeID}}
	}
	return info, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}},
		})
	}
	return response, nil
}

// use is how a volume's device is in use at this moment.
type use struct {
	// filesystems are the mounts of the file system on the device, nodes the bind mounts of the device node.
	filesystems, nodes []mounts.Mount
}

func usesOf(device loopdev.Device) (use, error) {
	list, err := mounts.List()
	if err != nil {
		return use{}, err
	}
	var found use
	for _, mount := range list {
		switch {
		case mount.MajorMinor == device.MajorMinor():
			found.filesystems = append(found.filesystems, mount)
		case mount.NodeDev() == device.Dev:
			found.nodes = append(found.nodes, mount)
		}
	}
	return found, nil
}

func at(list []mounts.Mount, path string) *mounts.Mount {
	for i := range list {
		if list[i].Path == path {
			return &list[i]
		}
	}
	return nil
}

// attached finds a volume's device and its uses; the device is nil if the volume is not attached.
func (n *node) attached(volume pool.Volume) (*loopdev.Device, use, error) {
	device, err := loopdev.Find(n.Pool.VolumeImage(volume.ID))
	if err != nil || device == nil {
		return nil, use{}, err
	}
	uses, err := usesOf(*device)
	return device, uses, err
}

// lockVolume serialises the calls for a volume and looks it up.
func (n *node) lockVolume(ctx context.Context, id string) (pool.Volume, func(), error) {
	unlock, err := n.locks.lock(ctx, volumeKey(id))
	if err != nil {
		return pool.Volume{}, nil, err
	}
	volume, err := n.Pool.Volume(id)
	if err != nil {
		unlock()
		return pool.Volume{}, nil, err
	}
	return volume, unlock, nil
}

func (n *node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if r.GetVolumeId() == "" || r.GetVolumePath() == "" {
		return nil, invalid("volume id or volume path is missing")
	}
	volume, unlock, err := n.lockVolume(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	device, uses, err := n.attached(volume)
	if err != nil {
		return nil, err
	}
	path := canonical(r.GetVolumePath())
	switch {
	case device != nil && at(uses.nodes, path) != nil:
		size, err := loopdev.Size(*device)
		return &csi.NodeGetVolumeStatsResponse{
			Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size}},
		}, err
	case device != nil && at(uses.filesystems, path) != nil:
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return nil, fmt.Errorf("statfs %s: %w", path, err)
		}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
			{
				Unit:  csi.VolumeUsage_BYTES,
				Total: int64(st.Blocks) * st.Bsize, Used: int64(st.Blocks-st.Bfree) * st.Bsize, Available: int64(st.Bavail) * st.Bsize,
			},
			{
				Unit:  csi.VolumeUsage_INODES,
				Total: int64(st.Files), Used: int64(st.Files - st.Ffree), Available: int64(st.Ffree),
			},
		}}, nil
	}
	return nil, status.Errorf(codes.NotFound, "volume %q is not published at %s", volume.ID, path)
}

func (n *node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetVolumePath() == "" {
		return nil, invalid("volume id or volume path is missing")
	}
	volume, unlock, err := n.lockVolume(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if required := r.GetCapacityRange().GetRequiredBytes(); required > volume.SizeBytes {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q has %d bytes, %d are asked for", volume.ID, volume.SizeBytes, required)
	}
	device, uses, err := n.attached(volume)
	if err != nil {
		return nil, err
	}
	path := canonical(r.GetVolumePath())
	if device == nil || at(uses.nodes, path) == nil && at(uses.filesystems, path) == nil && r.GetVolumeCapability().GetBlock() == nil {
		return nil, status.Errorf(codes.NotFound, "volume %q is neither staged nor published at %s", volume.ID, path)
	}
	if err := loopdev.SetCapacity(*device); err != nil {
		return nil, err
	}
	if mount := at(uses.filesystems, path); mount != nil {
		err := fsimage.Grow(ctx, mount.FSType, device.Path, path)
		if errors.Is(err, fsimage.ErrNotOnline) { // the kubelet then waits until the volume is staged anew
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		if err != nil {
			return nil, err
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: volume.SizeBytes}, nil
}

// removeIfThere removes an empty mount point; what holds files is not ours to remove.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

"""The functions of Stability AI as tasks. Parameters and results: `prefect_kosmokrator.integrations.stability`."""

from prefect_kosmokrator.integrations import stability
from prefect_kosmokrator.tasks.policy import function_task

get_account = function_task(stability.get_account)
get_balance = function_task(stability.get_balance)
generate_core = function_task(stability.generate_core)
generate_ultra = function_task(stability.generate_ultra)
generate_sd3 = function_task(stability.generate_sd3)
inpaint = function_task(stability.inpaint)
erase = function_task(stability.erase)
remove_background = function_task(stability.remove_background)
control_structure = function_task(stability.control_structure)
upscale_fast = function_task(stability.upscale_fast)
upscale_creative = function_task(stability.upscale_creative)
get_result = function_task(stability.get_result)
image_to_video = function_task(stability.image_to_video)
get_video_result = function_task(stability.get_video_result)

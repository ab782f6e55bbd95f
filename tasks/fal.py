"""The functions of fal.ai as tasks. Parameters and results: `prefect_kosmokrator.integrations.fal`."""

from prefect_kosmokrator.integrations import fal
from prefect_kosmokrator.tasks.policy import function_task

list_models = function_task(fal.list_models)
submit_request = function_task(fal.submit_request)
get_request_status = function_task(fal.get_request_status)
get_result = function_task(fal.get_result)
wait_for_request = function_task(fal.wait_for_request)
cancel_request = function_task(fal.cancel_request)
list_files = function_task(fal.list_files)
upload_file = function_task(fal.upload_file)
get_current_user = function_task(fal.get_current_user)
get_balance = function_task(fal.get_balance)
